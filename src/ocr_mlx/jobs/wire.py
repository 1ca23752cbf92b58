"""What a job came to, in the words of the job service's contract: its answers and its webhooks tell it alike."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from ocr_mlx.domain import OcrResult, PageResult
from ocr_mlx.jobs.records import Job, JobState, result_of


def job_result(job: Job, pages: tuple[PageResult, ...]) -> dict[str, Any]:
    """The `result` object of a job.

    `text` has a line above each page of a PDF; `formatted_text` is the same Markdown without them, and
    `output_file_base64` that of a picture as a file. `confidence` is the mean probability of the tokens, None without any.
    """
    result = result_of(job, pages)
    text = result.text
    is_pdf = job.kind == "pdf"
    return {
        "text": _with_heads(job, result) if is_pdf else text,
        "formatted_text": text,
        "output_file_base64": base64.b64encode(text.encode()).decode() if text and not is_pdf else None,
        "confidence": _confidence(result.pages),
        "metadata": {
            "engine": job.engine,
            "model_id": _model_id(job.request.model),
            "seconds": round(result.seconds, 3),
            "usage": {
                "prompt_tokens": result.usage.prompt_tokens,
                "completion_tokens": result.usage.completion_tokens,
            },
            "pages": [_page(page) for page in result.pages],
            "total_pages": job.total,
        },
    }


def _model_id(name: str) -> str:
    """A hub id or an alias as it is; of a folder, or a model on another machine, no more than its own name."""
    remote, _, model = name.rpartition("#")
    if remote.startswith("openai+"):
        return model
    return Path(name).name if name.startswith(("/", ".", "~")) or name.count("/") > 1 else name


def webhook_body(job: Job, pages: tuple[PageResult, ...]) -> dict[str, Any]:
    """What a webhook is sent. A cancelled job counts as failed."""
    done = job.state is JobState.COMPLETED
    return {
        "job_id": job.id,
        "status": "completed" if done else "failed",
        "filename": job.filename,
        "result": job_result(job, pages) if done else None,
        "error": None if done else (job.error.message if job.error else "The job failed."),
    }


def _with_heads(job: Job, result: OcrResult) -> str:
    """`=== Page 1 of 2 ===` above each page's text; pages that were read in one prompt share theirs."""
    place = {index: number for number, index in enumerate(job.pages, 1)}
    parts = []
    for page in result.pages:
        numbers = sorted(place[index] for index in (page.index, *page.following) if index in place)
        name = f"Page {numbers[0]}" if len(numbers) == 1 else f"Pages {numbers[0]}-{numbers[-1]}"
        parts.append(f"=== {name} of {job.total} ===\n{page.text}")
    return "\n\n".join(parts)


def _confidence(pages: tuple[PageResult, ...]) -> float | None:
    """Each page counts by its tokens."""
    known = [(page.confidence, max(1, page.generated_tokens)) for page in pages if page.confidence is not None]
    if not known:
        return None
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known)


def _page(page: PageResult) -> dict[str, Any]:
    return {
        "page_number": page.index + 1,
        "following": [index + 1 for index in page.following],
        "status": str(page.status),
        "confidence": page.confidence,
        "error": None if page.error is None else page.error.message,
        "metadata": {
            "finish": str(page.finish),
            "prompt_tokens": page.prompt_tokens,
            "completion_tokens": page.generated_tokens,
            "seconds": round(page.seconds, 3),
            "effective_size": None if page.effective_size is None else list(page.effective_size),
            "blocks": [{"label": b.label, "text": b.text, "box": list(b.box)} for b in page.blocks],
        },
    }
