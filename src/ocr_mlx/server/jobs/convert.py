"""Between the wire and the records of jobs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from ocr_mlx.domain import PageResult
from ocr_mlx.jobs import records
from ocr_mlx.jobs.records import JobState
from ocr_mlx.jobs.wire import job_result
from ocr_mlx.server.jobs.schemas import (
    Job,
    JobPage,
    JobProgress,
    JobResult,
    JobSummary,
    Status,
    WebhookDelivery,
)

CANCELLED = "The job was cancelled."


def to_job(job: records.Job, pages: tuple[PageResult, ...]) -> Job:
    """The whole job; `pages` are its results so far."""
    return Job(
        **dict(to_summary(job)),
        pages=[to_page(page) for page in pages],
        result=_result(job, pages) if job.state is JobState.COMPLETED else None,
    )


def _result(job: records.Job, pages: tuple[PageResult, ...]) -> JobResult:
    return JobResult.model_validate(job_result(job, pages))


def to_summary(job: records.Job) -> JobSummary:
    """The job without what it has read."""
    return JobSummary(
        id=job.id,
        status=to_status(job.state),
        created_at=to_time(job.created),
        updated_at=to_time(job.updated),
        started_at=_maybe(job.started),
        finished_at=_maybe(job.finished),
        filename=job.filename,
        kind=job.kind,
        engine=job.engine,
        error=to_error(job),
        cancelled=job.state is JobState.CANCELLED,
        progress=JobProgress(done=job.done, total=job.total),
        webhook=_delivery(job),
    )


def to_status(state: JobState) -> Status:
    """The state as pollers know it: a cancelled job has failed."""
    match state:
        case JobState.PENDING:
            return "pending"
        case JobState.PROCESSING:
            return "processing"
        case JobState.COMPLETED:
            return "completed"
        case JobState.FAILED | JobState.CANCELLED:
            return "failed"


def to_error(job: records.Job) -> str | None:
    """Why the job failed."""
    if job.state is JobState.CANCELLED:
        return CANCELLED
    if job.state is not JobState.FAILED:
        return None
    return job.error.message if job.error else "The job failed."


def to_page(page: PageResult) -> JobPage:
    """How a page ended."""
    return JobPage(
        index=page.index,
        page_number=page.index + 1,
        following=list(page.following),
        status=page.status,
        error=page.error.message if page.error else None,
    )


def states(status: str | None) -> tuple[JobState | None, ...]:
    """The states that a filter's word stands for; None is every one."""
    if status is None:
        return (None,)
    return (JobState.FAILED, JobState.CANCELLED) if status == "failed" else (JobState(status),)


def newest(jobs: Iterable[records.Job], limit: int) -> list[JobSummary]:
    """The newest of them first."""
    return [to_summary(job) for job in sorted(jobs, key=lambda job: job.created, reverse=True)[:limit]]


def to_time(seconds: float) -> str:
    """Unix seconds as ISO time in UTC, without the zone, with microseconds."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def _maybe(seconds: float | None) -> str | None:
    return None if seconds is None else to_time(seconds)


def _delivery(job: records.Job) -> WebhookDelivery | None:
    made = job.delivery
    if made.state == "none":
        return None
    return WebhookDelivery(
        state=made.state,
        attempts=made.attempts,
        status=made.status,
        message=made.message,
        next_at=_maybe(made.next_at),
        delivered_at=_maybe(made.delivered_at),
    )
