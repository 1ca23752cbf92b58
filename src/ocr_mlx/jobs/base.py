"""What the server needs of jobs, wherever they are kept and whoever reads them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal, Protocol

from ocr_mlx.domain import OcrRequest, OcrResult, OnEvent, PageError, PageResult
from ocr_mlx.jobs.records import Delivery, Job, JobRequest, JobState


class Reader(Protocol):
    """What jobs need of the engine (`engine.service.OcrService`)."""

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        """Read one document; blocks."""
        ...

    def inspect(self, request: OcrRequest) -> tuple[int, ...]:
        """The indices of the pages that a request selects."""
        ...


class Work(Protocol):
    """Who reads the jobs of a store: threads of this process, or others through a queue. Thread-safe."""

    def start(self) -> None:
        """Take up work."""
        ...

    def submitted(self, job: Job) -> None:
        """A job was stored and can be read."""
        ...

    def cancel(self, job_id: str) -> None:
        """A job became final, or was deleted, while it may be read."""
        ...

    def stop(self) -> None:
        """See Jobs."""
        ...

    def close(self) -> None:
        """See Jobs."""
        ...


class Jobs(Protocol):
    """Thread-safe; every method may block for the time of a disk write or a network call, so call it off the event loop."""

    def start(self) -> None:
        """Take up work: jobs that a process left behind when it died go on at their first unfinished page."""
        ...

    def submit(
        self,
        data: bytes,
        request: JobRequest,
        *,
        filename: str,
        engine: str,
        pages: str = "",
        webhook_url: str = "",
        expect: Literal["image", "pdf", ""] = "",
    ) -> Job:
        """Open the document to count its pages, keep it, and queue it; once this returns the job survives the process.

        `pages` is a page range. Raises SourceError and PageError for a document that cannot be read, UnsupportedMedia when
        it is not what is expected, SourceForbidden for a webhook address that is not allowed, QueueFull and ShuttingDown.
        """
        ...

    def get(self, job_id: str) -> Job:
        """The job. Raises JobNotFound."""
        ...

    def pages(self, job_id: str) -> tuple[PageResult, ...]:
        """The results so far, in the order asked for. Raises JobNotFound."""
        ...

    def listed(self, *, limit: int = 100, state: JobState | None = None) -> tuple[Job, ...]:
        """The newest jobs first."""
        ...

    def cancel(self, job_id: str) -> Job:
        """End a job that is not final; what was read stays. A final one is returned as it is. Raises JobNotFound."""
        ...

    def delete(self, job_id: str) -> None:
        """Cancel where needed, and forget everything about the job. Raises JobNotFound."""
        ...

    def current_model(self) -> str | None:
        """What `/models/switch` chose, None before it did. Survives restarts."""
        ...

    def set_current_model(self, name: str) -> None:
        """Choose it."""
        ...

    def healthy(self) -> bool:
        """Whether jobs can be taken now; never raises, answers within two seconds."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether other processes read the jobs (Redis)."""
        ...

    def stop(self) -> None:
        """Take no new work and let running pages go back to the queue; from any thread, does not wait."""
        ...

    def close(self) -> None:
        """End all threads; unfinished jobs stay for the next start."""
        ...


class JobStore(Protocol):
    """Where jobs live: SQLite or Redis. Thread-safe. A job that is unknown or expired raises JobNotFound.

    Every method that changes something has changed it durably when it returns.
    """

    def add(self, job: Job, data: bytes) -> None:
        """Keep a new job and its document; both or neither. Raises QueueFull when too many wait."""
        ...

    def get(self, job_id: str) -> Job:
        """The job."""
        ...

    def listed(self, *, limit: int, state: JobState | None = None) -> tuple[Job, ...]:
        """The newest first."""
        ...

    def document(self, job_id: str) -> bytes:
        """The bytes of a job that is not final."""
        ...

    def pages(self, job_id: str) -> tuple[PageResult, ...]:
        """The stored results, in the order asked for."""
        ...

    def begin(self, job_id: str) -> Job:
        """PENDING becomes PROCESSING; the job as it is then."""
        ...

    def put_page(self, job_id: str, page: PageResult) -> bool:
        """Store a result unless there is one for that page, or the job is final; whether it was stored."""
        ...

    def finish(self, job_id: str, state: JobState, error: PageError | None = None) -> bool:
        """Make a job final unless it is; whether this call did it. Its document is deleted, its record expires later."""
        ...

    def delete(self, job_id: str) -> None:
        """Forget everything."""
        ...

    def deliver(self, job_id: str, change: Callable[[Delivery], Delivery]) -> Job:
        """Change the webhook's record, at once or not at all; the job as it is then."""
        ...

    def due(self, now: float, *, lease: float) -> tuple[Job, ...]:
        """Final jobs whose webhook is waiting and due; each is handed out once, and again only after `lease` seconds."""
        ...

    def expire(self, now: float) -> None:
        """Forget final jobs that are older than their time, and files that belong to no job."""
        ...

    def current_model(self) -> str | None:
        """See Jobs."""
        ...

    def set_current_model(self, name: str) -> None:
        """See Jobs."""
        ...

    def ping(self) -> bool:
        """Whether the store answers, within two seconds."""
        ...

    def close(self) -> None:
        """Let go."""
        ...
