"""What is kept of a job. Frozen records, and their one JSON form."""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from pydantic import TypeAdapter

from ocr_mlx.domain import DecodeOverrides, OcrRequest, OcrResult, PageError, PageResult, Prompt, Upload
from ocr_mlx.errors import JobNotFound, TimedOut
from ocr_mlx.outputs.outcome import failure


class JobState(StrEnum):
    """Where a job stands. The last three are final."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self not in (JobState.PENDING, JobState.PROCESSING)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest:
    """How to read the document: an `OcrRequest` without its source, and the page indices that were selected from it."""

    model: str
    prompt: Prompt = field(default_factory=Prompt)
    overrides: DecodeOverrides = field(default_factory=DecodeOverrides)
    padding: int = 0
    dpi: float | None = None
    password: str | None = field(default=None, repr=False)
    keep_alive: float | None = None

    def asking(self, data: bytes, name: str, pages: tuple[int, ...]) -> OcrRequest:
        """The engine's request for these pages of the document (indices from 0)."""
        return OcrRequest(
            source=Upload(data=data, name=name),
            model=self.model,
            prompt=self.prompt,
            overrides=self.overrides,
            page_range=",".join(str(index + 1) for index in pages),
            padding=self.padding,
            dpi=self.dpi,
            password=self.password,
            keep_alive=self.keep_alive,
            timeout=math.inf,  # jobs have a deadline of their own, for each page
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """What became of a job's webhook. `attempts` so far; `status` the last answer's, None for none; times are Unix seconds."""

    state: Literal["none", "waiting", "delivered", "failed"] = "none"
    attempts: int = 0
    status: int | None = None
    message: str = ""
    next_at: float | None = None
    delivered_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One document to read, without its bytes and its pages.

    `kind` is what came in; `pages` the selected indices; `done` how many of them have a result; `engine` the model's name as
    the caller said it (for messages), `request.model` what is read with; times are Unix seconds, `updated` moves with
    every page; `error` says why a failed or cancelled job ended; `attempts` counts the processes that began to decode
    since the last stored page (not in Redis, where units are counted).
    """

    id: str
    state: JobState = JobState.PENDING
    kind: Literal["image", "pdf"]
    filename: str
    engine: str
    request: JobRequest
    pages: tuple[int, ...]
    done: int = 0
    created: float
    updated: float
    started: float | None = None
    finished: float | None = None
    error: PageError | None = None
    webhook_url: str = ""
    delivery: Delivery = field(default_factory=Delivery)
    attempts: int = 0

    @property
    def total(self) -> int:
        """How many pages were selected."""
        return len(self.pages)


def new_job(
    *,
    kind: Literal["image", "pdf"],
    filename: str,
    engine: str,
    request: JobRequest,
    pages: tuple[int, ...],
    webhook_url: str = "",
) -> Job:
    """A pending job with an id that cannot be guessed."""
    now = time.time()
    return Job(
        id=str(uuid.uuid4()),
        kind=kind,
        filename=filename,
        engine=engine,
        request=request,
        pages=pages,
        created=now,
        updated=now,
        webhook_url=webhook_url,
        delivery=Delivery(state="waiting" if webhook_url else "none"),
    )


def result_of(job: Job, pages: tuple[PageResult, ...]) -> OcrResult:
    """What a job has come to so far, in the order asked for; `seconds` from its start to its end."""
    by_index = {page.index: page for page in pages}
    ordered = tuple(by_index[index] for index in job.pages if index in by_index)
    seconds = (job.finished or job.updated) - (job.started or job.updated)
    return OcrResult(model=job.request.model, pages=ordered, seconds=max(0.0, seconds))


def outcome(job: Job, pages: tuple[PageResult, ...]) -> tuple[JobState, PageError | None]:
    """What a job has come to once every page has a result."""
    error = failure(result_of(job, pages))
    return (JobState.FAILED if error else JobState.COMPLETED), error


def too_late(page_seconds: float) -> PageError:
    """Why a job ends whose pages took longer than so many seconds each."""
    return PageError(
        code=TimedOut.code,
        message=(
            f"The job took longer than {page_seconds:g} seconds for each of its pages. "
            "Send fewer pages, take a smaller model, or raise OCR_MLX_JOB_TIMEOUT."
        ),
    )


def unknown() -> JobNotFound:
    """In the words that clients know."""
    return JobNotFound("Job not found")


JOB = TypeAdapter(Job)
PAGE = TypeAdapter(PageResult)
ERROR = TypeAdapter(PageError)
DELIVERY = TypeAdapter(Delivery)
"""`PAGE.dump_json(page)` and `PAGE.validate_json(text)` are inverse; so are the others'."""
