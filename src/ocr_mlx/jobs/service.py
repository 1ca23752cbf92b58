"""Jobs on any store, whoever reads them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from ocr_mlx.domain import OcrRequest, PageError, PageResult, Upload
from ocr_mlx.errors import Cancelled, EngineError, ShuttingDown, UnsupportedMedia
from ocr_mlx.jobs.base import JobStore, Reader, Work
from ocr_mlx.jobs.records import Job, JobRequest, JobState, new_job
from ocr_mlx.jobs.webhook import Webhooks
from ocr_mlx.pages.media import SUPPORTED, describe, detect
from ocr_mlx.utils.logs import counted

log = logging.getLogger(__name__)


class StoredJobs:
    """`Jobs` from a store, somebody who reads what is in it, and the webhooks."""

    def __init__(
        self,
        store: JobStore,
        engine: Callable[[], Reader],
        work: Work,
        webhooks: Webhooks,
        *,
        is_remote: bool = False,
    ) -> None:
        """`engine` may block; documents are opened with it, to count their pages."""
        self._store = store
        self._engine = engine
        self._work = work
        self._webhooks = webhooks
        self._is_remote = is_remote
        self._stopped = False
        self._current: str | None = None

    def start(self) -> None:
        """See Jobs. Returns at once."""
        self._work.start()
        self._webhooks.start()

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
        """See Jobs."""
        if self._stopped:
            raise ShuttingDown("The server is shutting down.", hint="Start it again and send the document again.")
        kind = _kind(data, expect)
        if webhook_url:
            self._webhooks.check(webhook_url)
        selected = self._engine().inspect(
            OcrRequest(
                source=Upload(data=data, name=filename), page_range=pages, password=request.password, dpi=request.dpi
            )
        )
        job = new_job(
            kind=kind,
            filename=filename.encode("utf-8", "replace").decode(),
            engine=engine,
            request=request,
            pages=selected,
            webhook_url=webhook_url,
        )
        self._store.add(job, data)
        log.info("job %s: accepted, %s", job.id, counted(job.total, "page"))
        self._work.submitted(job)
        return job

    def get(self, job_id: str) -> Job:
        """See Jobs."""
        return self._store.get(job_id)

    def pages(self, job_id: str) -> tuple[PageResult, ...]:
        """See Jobs."""
        return self._store.pages(job_id)

    def listed(self, *, limit: int = 100, state: JobState | None = None) -> tuple[Job, ...]:
        """See Jobs."""
        return self._store.listed(limit=limit, state=state)

    def cancel(self, job_id: str) -> Job:
        """See Jobs."""
        reason = PageError(code=Cancelled.code, message="The job was cancelled.")
        if self._store.finish(job_id, JobState.CANCELLED, reason):
            self._work.cancel(job_id)
            self._webhooks.wake()
        return self._store.get(job_id)

    def delete(self, job_id: str) -> None:
        """See Jobs. What is forgotten is not delivered any more."""
        self._store.delete(job_id)
        self._work.cancel(job_id)

    def current_model(self) -> str | None:
        """See Jobs. As last known where the store cannot tell now: requests that are no jobs go on without it."""
        try:
            self._current = self._store.current_model()
        except EngineError as problem:
            log.warning("the chosen model is not known now: %s", problem.code)
        return self._current

    def set_current_model(self, name: str) -> None:
        """See Jobs."""
        self._store.set_current_model(name)

    def healthy(self) -> bool:
        """See Jobs."""
        return not self._stopped and self._store.ping()

    @property
    def is_remote(self) -> bool:
        """See Jobs."""
        return self._is_remote

    def stop(self) -> None:
        """See Jobs."""
        self._stopped = True
        self._work.stop()

    def close(self) -> None:
        """See Jobs."""
        self.stop()
        self._work.close()
        self._webhooks.close()
        self._store.close()


def _kind(data: bytes, expect: Literal["image", "pdf", ""]) -> Literal["image", "pdf"]:
    """By the bytes. UnsupportedMedia for what cannot be read, or is not what was expected."""
    found = detect(data)
    if found is None:
        what = "The file is empty" if not data else f"The file is {describe(data)}"
        raise UnsupportedMedia(f"{what}.", hint=f"Send {SUPPORTED}.")
    kind: Literal["image", "pdf"] = "pdf" if found == "PDF" else "image"
    if expect and kind != expect:
        wanted, got = ("a picture", "a PDF") if expect == "image" else ("a PDF", "a picture")
        raise UnsupportedMedia(f"The file is {got}; {wanted} is expected here.", hint=f"Send {wanted}.")
    return kind
