"""A job's way as server-sent events.

`progress` when it moves, `page` once for every page that is done, with its text, `done` at the end. A `page` event's id
names the pages that were sent, so that a client that comes back with `Last-Event-ID` gets only the others.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.concurrency import run_in_threadpool

from ocr_mlx.domain import PageResult
from ocr_mlx.errors import JobNotFound, OcrMlxError
from ocr_mlx.jobs.records import Job
from ocr_mlx.server.deps import ServerContext
from ocr_mlx.server.jobs import convert

ENDED: Final = "done"
"""Id of the last event; who comes back with it has missed nothing."""
POLL = 0.3
SILENCE = 15.0
"""Seconds without an event after which a comment keeps the connection."""
_RANGES = re.compile(r"\d{1,7}(-\d{1,7})?(,\d{1,7}(-\d{1,7})?)*", re.ASCII)
_MOST = 100_000
_LONGEST = 4000
"""Characters of an id."""


async def events(context: ServerContext, job_id: str, sent: set[int]) -> AsyncIterator[bytes]:
    """The events from here to the job's end, or the server's. `sent` are the indices of pages that the client has."""
    before: tuple[str, int] | None = None
    heard = time.monotonic()
    while not context.runner.stopped:
        try:
            job, pages = await run_in_threadpool(_look, context, job_id, sent)
        except JobNotFound:
            yield _event("done", {"id": job_id, "status": "failed", "error": "The job is not known any more."}, ENDED)
            return
        except OcrMlxError:  # the store is away for a moment; the client waits with us
            job, pages = None, []
        if job is not None and before != (before := (job.state, job.done)):
            heard = time.monotonic()
            yield _event("progress", _progress(job))
        for page in pages:
            sent |= {page.index, *page.following}
            yield _event("page", _page(page), encode(sent))
        if job is not None and job.state.final:
            yield _event("done", convert.to_summary(job).model_dump(mode="json"), ENDED)
            return
        if time.monotonic() - heard >= SILENCE:
            heard = time.monotonic()
            yield KEEPALIVE_COMMENT
        await asyncio.sleep(POLL)


def encode(indices: set[int]) -> str:
    """`{0, 1, 2, 5}` as `0-2,5`; cut off where it would be too long for a header: what is not named comes again."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    text = ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)
    return text if len(text) <= _LONGEST else text[:_LONGEST].rpartition(",")[0]


def decode(text: str) -> set[int]:
    """The indices that `encode` wrote; none for anything else."""
    indices: set[int] = set()
    for run in text.split(",") if _RANGES.fullmatch(text) else ():
        first, _, last = run.partition("-")
        if int(last or first) - int(first) > _MOST:
            return set()
        indices |= set(range(int(first), int(last or first) + 1))
    return indices


def _look(context: ServerContext, job_id: str, sent: set[int]) -> tuple[Job | None, list[PageResult]]:
    """The job first: once that is final, the pages that are read after it are all there will be."""
    job = context.jobs.get(job_id)
    if job.done <= len(sent) and not job.state.final:
        return job, []
    return job, [page for page in context.jobs.pages(job_id) if page.index not in sent]


def _event(name: str, data: dict[str, Any], event_id: str | None = None) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data), id=event_id)


def _progress(job: Job) -> dict[str, Any]:
    return {"id": job.id, "status": convert.to_status(job.state), "done": job.done, "total": job.total}


def _page(page: PageResult) -> dict[str, Any]:
    return convert.to_page(page).model_dump(mode="json") | {"text": page.text, "confidence": page.confidence}
