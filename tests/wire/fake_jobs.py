"""Jobs without a disk or an engine: they stay where a test puts them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Literal

from ocr_mlx.domain import OcrRequest, PageResult, Upload
from ocr_mlx.errors import JobNotFound, OcrMlxError
from ocr_mlx.jobs.records import Job, JobRequest, JobState, new_job


@dataclass
class FakeJobs:
    is_remote: bool = False
    up: bool = True
    selected: tuple[int, ...] = (0,)
    refuse: OcrMlxError | None = None
    """What `submit` raises."""
    down: OcrMlxError | None = None
    """What everything raises."""
    current: str | None = None
    kept: dict[str, Job] = field(default_factory=dict)
    results: dict[str, tuple[PageResult, ...]] = field(default_factory=dict)
    asked: list[OcrRequest] = field(default_factory=list)
    said: list[dict[str, str]] = field(default_factory=list)
    """What `submit` was told beside the request."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...

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
        self._there()
        if self.refuse is not None:
            raise self.refuse
        self.said.append({"engine": engine, "pages": pages, "webhook_url": webhook_url, "expect": expect})
        self.asked.append(replace(request.asking(data, filename, ()), source=Upload(data=data, name=filename)))
        kind: Literal["image", "pdf"] = "pdf" if data.startswith(b"%PDF") else "image"
        job = new_job(
            kind=kind,
            filename=filename,
            engine=engine,
            request=request,
            pages=self.selected,
            webhook_url=webhook_url,
        )
        self.kept[job.id] = job
        return job

    def get(self, job_id: str) -> Job:
        self._there()
        if job_id not in self.kept:
            raise JobNotFound("Job not found")
        return self.kept[job_id]

    def pages(self, job_id: str) -> tuple[PageResult, ...]:
        self.get(job_id)
        return self.results.get(job_id, ())

    def listed(self, *, limit: int = 100, state: JobState | None = None) -> tuple[Job, ...]:
        self._there()
        newest = sorted(self.kept.values(), key=lambda job: -job.created)
        return tuple(job for job in newest if state in (None, job.state))[:limit]

    def cancel(self, job_id: str) -> Job:
        job = self.get(job_id)
        return job if job.state.final else self.change(job_id, state=JobState.CANCELLED, finished=time.time())

    def delete(self, job_id: str) -> None:
        self.get(job_id)
        del self.kept[job_id]

    def current_model(self) -> str | None:
        self._there()
        return self.current

    def set_current_model(self, name: str) -> None:
        self._there()
        self.current = name

    def healthy(self) -> bool:
        return self.up

    def _there(self) -> None:
        if self.down is not None:
            raise self.down

    def change(self, job_id: str, **changes: object) -> Job:
        """Make the job another one, as its reader would."""
        self.kept[job_id] = replace(self.kept[job_id], updated=time.time(), **changes)  # type: ignore[arg-type]
        return self.kept[job_id]

    def read(self, job_id: str, *pages: PageResult, **changes: object) -> Job:
        """Add results, as its reader would."""
        self.results[job_id] = (*self.results.get(job_id, ()), *pages)
        return self.change(job_id, done=len(self.results[job_id]), **changes)
