"""A result as text, Markdown or JSON.

The JSON form is stable: keys are added, never renamed or removed. A page has `blocks` only where the model grounds,
and `following` only where further pages were read with it; its token ids are in the Python result alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ocr_mlx.domain import OcrResult, PageResult, PageStatus
from ocr_mlx.errors import OcrMlxError

_SILENT = {PageStatus.OK, PageStatus.BLANK, PageStatus.LOOP_RECOVERED}


def to_text(result: OcrResult) -> str:
    """The pages' texts, joined by a blank line."""
    return _line(result.text)


def to_markdown(result: OcrResult) -> str:
    """The pages' texts, joined by a blank line; a page that is not whole is followed by a comment that says why."""
    return _line("\n\n".join(part for page in result.pages for part in _text_and_remark(page)))


def to_json(result: OcrResult) -> str:
    """The whole result as one JSON object, indented."""
    return json.dumps(to_record(result), ensure_ascii=False, indent=2) + "\n"


def to_json_line(name: str, result: OcrResult) -> str:
    """One of several documents as one line of JSON; `input` is its name."""
    return json.dumps({"input": name} | to_record(result), ensure_ascii=False) + "\n"


def to_error_line(name: str, error: OcrMlxError) -> str:
    """One of several documents that could not be read, as one line of JSON."""
    told = {"code": error.code, "message": str(error)}
    return json.dumps({"input": name, "error": told}, ensure_ascii=False) + "\n"


FORMATS: Mapping[str, Callable[[OcrResult], str]] = {"txt": to_text, "md": to_markdown, "json": to_json}
"""Format name, which is the file ending too, to its function."""
PARTS: Mapping[str, Callable[[PageResult], Sequence[str]]] = {
    "txt": lambda page: (page.text,) if page.text else (),
    "md": lambda page: _text_and_remark(page),
}
"""Formats that can be told page by page, to what a page adds; all pages' parts, joined by a blank line, are the whole."""


def to_record(result: OcrResult) -> dict[str, Any]:
    """The result as plain values. Page indices count from 0; boxes are left, top, right, bottom."""
    return {
        "model": result.model,
        "text": result.text,
        "pages": [page_record(page) for page in result.pages],
        "usage": usage_record(result),
        "seconds": round(result.seconds, 4),
    }


def usage_record(result: OcrResult) -> dict[str, int]:
    """The document's token counts as plain values."""
    usage = result.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def page_record(page: PageResult) -> dict[str, Any]:
    """A page as plain values: see `to_record`."""
    blocks = [
        {"label": b.label, "text": b.text, "box": list(b.box), "normalized": list(b.normalized)} for b in page.blocks
    ]
    return {
        "index": page.index,
        **({"following": list(page.following)} if page.following else {}),
        "status": page.status.value,
        "text": page.text,
        "raw_text": page.raw_text,
        **({"blocks": blocks} if blocks else {}),
        "confidence": page.confidence,
        "tokens": {"prompt": page.prompt_tokens, "generated": page.generated_tokens},
        "finish": page.finish.value,
        "effective_size": list(page.effective_size) if page.effective_size else None,
        "seconds": round(page.seconds, 4),
        "decode_steps": page.decode_steps,
        "drafts": {"proposed": page.drafted, "accepted": page.accepted},
        "cached": page.cached,
        "error": {"code": page.error.code, "message": page.error.message} if page.error else None,
    }


def _text_and_remark(page: PageResult) -> list[str]:
    return [part for part in (page.text, _remark(page)) if part]


def _remark(page: PageResult) -> str:
    if page.status in _SILENT:
        return ""
    reason = f": {page.error.message}" if page.error else ""
    remark = f"page {page.index + 1}: {page.status.value}{reason}".replace("--", "- -")
    return f"<!-- {remark} -->"


def _line(text: str) -> str:
    """Text that ends in a line break, or is empty."""
    return text if not text or text.endswith("\n") else text + "\n"
