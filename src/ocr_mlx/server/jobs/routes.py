"""Jobs over HTTP: submit a document, ask for it, follow it, cancel it, forget it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.routing import APIRoute
from fastapi.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.routing import Match
from starlette.types import Scope

from ocr_mlx.errors import JobNotFound
from ocr_mlx.jobs import records
from ocr_mlx.server.deps import Context, ServerContext
from ocr_mlx.server.errors import problem
from ocr_mlx.server.jobs import convert, documents, events, models_routes
from ocr_mlx.server.jobs.catalog import Catalog
from ocr_mlx.server.jobs.documents import PDF_DPI, Asked, Kind, asked
from ocr_mlx.server.jobs.schemas import Job, JobList, JobSubmitted

T = TypeVar("T")
Form = Annotated[Asked, Depends(asked)]
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


ANY: dict[int | str, dict[str, Any]] = {
    500: problem("The jobs' folder cannot be used, or the engine cannot start"),
    503: problem("Jobs cannot be kept now, or the server is shutting down; Retry-After says when to come back"),
}
ONE = ANY | {404: problem("No such job, or it has expired")}
SUBMIT = ANY | {
    400: problem("The document, or what was asked of it, cannot be read"),
    413: problem("The document is too large"),
    429: problem("Too many jobs are waiting; Retry-After says when to come back"),
}
STREAM: dict[int | str, dict[str, Any]] = ONE | {
    200: {"description": "The events", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "The client has had the last event"},
}


class MultipartRoute(APIRoute):
    """Takes requests with a form only, so that another route may have the path's other requests."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See APIRoute."""
        kind = Headers(scope=scope).get("content-type", "") if scope["type"] == "http" else ""
        return super().matches(scope) if kind.lower().startswith("multipart/") else (Match.NONE, {})


forms = APIRouter(route_class=MultipartRoute)
router = APIRouter()


@forms.post("/ocr", tags=["jobs"], status_code=202, responses=SUBMIT)
async def submit(form: Form, context: Context) -> JobSubmitted:
    """Submit a picture, or a PDF, to be read later."""
    return await _submit(form, context, wanted="image")


@router.post("/ocr/pdf", tags=["jobs"], status_code=202, responses=SUBMIT)
async def submit_pdf(form: Form, context: Context) -> JobSubmitted:
    """Submit a PDF to be read later, with 300 DPI unless told otherwise."""
    return await _submit(form, context, wanted="pdf")


@router.api_route("/ocr/pdf", methods=["GET", "DELETE"], tags=["jobs"], include_in_schema=False)
async def no_job() -> Response:
    """`pdf` is no job's id."""
    raise HTTPException(405, headers={"Allow": "POST"})


async def _submit(form: Asked, context: ServerContext, *, wanted: Kind) -> JobSubmitted:
    data, name, kind = await documents.document(form.file, context.settings, wanted=wanted)

    def keep() -> JobSubmitted:
        with documents.told(kind):
            model, engine = Catalog(context).chosen(form.engine)
            documents.check_mode(form.mode, model)
            job = context.jobs.submit(
                data,
                form.request(model, dpi=form.dpi or (PDF_DPI if wanted == "pdf" else None)),
                filename=name,
                engine=engine,
                pages=form.pages,
                webhook_url=form.webhook_url,
                expect=kind,
            )
        return JobSubmitted(job_id=job.id, message=_message(job))

    return await run_in_threadpool(keep)


def _message(job: records.Job) -> str:
    what = "Image" if job.kind == "image" else f"PDF with {job.total} page{'' if job.total == 1 else 's'}"
    return f"{what} submitted for processing with '{job.engine}' engine"


@router.get("/jobs", tags=["jobs"], responses=ANY)
async def list_jobs(
    context: Context,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    status: Literal["pending", "processing", "completed", "failed", "cancelled"] | None = None,
) -> JobList:
    """The newest jobs first. `failed` are cancelled ones too."""

    def look() -> JobList:
        found = [job for state in convert.states(status) for job in context.jobs.listed(limit=limit, state=state)]
        return JobList(jobs=convert.newest(found, limit))

    return await run_in_threadpool(look)


@router.get("/ocr/{job_id}", tags=["jobs"], responses=ONE)
async def get_job(job_id: str, context: Context) -> Job:
    """A job: where it stands, and what it has read once it is completed."""
    return await _of(job_id, lambda: _whole(context.jobs.get(job_id), context))


@router.post("/ocr/{job_id}/cancel", tags=["jobs"], responses=ONE)
async def cancel_job(job_id: str, context: Context) -> Job:
    """End a job; one that has ended stays as it is. The answer is the job."""
    return await _of(job_id, lambda: _whole(context.jobs.cancel(job_id), context))


@router.delete("/ocr/{job_id}", tags=["jobs"], status_code=204, responses=ONE)
async def delete_job(job_id: str, context: Context) -> Response:
    """Cancel a job where needed, and forget all about it."""
    await _of(job_id, lambda: context.jobs.delete(job_id))
    return Response(status_code=204)


@router.get("/ocr/{job_id}/events", tags=["jobs"], response_class=StreamingResponse, responses=STREAM)
async def follow_job(job_id: str, context: Context, last_event_id: Annotated[str | None, Header()] = None) -> Response:
    """Follow a job with server-sent events: `progress`, `page` with its text, and `done` at the end.

    `Last-Event-ID` goes on where a broken stream ended.
    """
    await _of(job_id, lambda: context.jobs.get(job_id))
    if last_event_id == events.ENDED:
        return Response(status_code=204)
    following = events.events(context, job_id, events.decode(last_event_id or ""))
    return EventSourceResponse(following, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


def _whole(job: records.Job, context: ServerContext) -> Job:
    return convert.to_job(job, context.jobs.pages(job.id) if job.done else ())


async def _of(job_id: str, look: Callable[[], T]) -> T:
    """What `look` finds, off the event loop. Raises 404 for a job that is not known, or whose id is none."""
    if not _ID.fullmatch(job_id):
        raise documents.refused(404, "Job not found", JobNotFound)
    try:
        return await run_in_threadpool(look)
    except JobNotFound as unknown:
        raise documents.refused(404, "Job not found", JobNotFound) from unknown


router.include_router(forms)
router.include_router(models_routes.router)
