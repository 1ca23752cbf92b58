"""`POST /ocr` as a stream of events, for clients that ask for one with `Accept`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Final

from fastapi.responses import Response, StreamingResponse
from fastapi.sse import EventSourceResponse
from starlette.background import BackgroundTask

from ocr_mlx.domain import DocumentDone
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.server.ocr.events import Record, Records, error_record, failure_record, internal_record
from ocr_mlx.server.running import Reading
from ocr_mlx.server.streams import frame, line, with_pauses

log = logging.getLogger(__name__)

SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
PAUSE: Final = 10.0
"""Seconds of silence after which a comment says that the server still works; lines of JSON have no comments."""
PATIENCE: Final = 2.0
"""Seconds after which a stream begins although no page is begun yet: from then on errors are events."""
HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Nobody keeps a stream, and no proxy holds it back."""
_PLAIN: Final = "text/plain"


def wanted(accept: str) -> str | None:
    """The kind of stream that an `Accept` header names above plain text; None where it names none. Wildcards name none."""
    chosen, most = _PLAIN, 0.0
    for item in accept.split(","):
        name, _, rest = item.partition(";")
        name, weight = name.strip().lower(), _weight(rest)
        if name in (SSE, NDJSON, _PLAIN) and weight > most:
            chosen, most = name, weight
    return None if chosen == _PLAIN else chosen


def respond(reading: Reading, kind: str) -> Response:
    """The answer. A client that leaves, even before the first byte, ends the work."""
    closing = BackgroundTask(reading.close)
    if kind == NDJSON:
        lines = (line(record) async for record in records(reading))
        return StreamingResponse(lines, media_type=NDJSON, headers=HEADERS, background=closing)
    frames = (frame(record, event=record["event"]) async for record in records(reading))
    return EventSourceResponse(with_pauses(frames, PAUSE), headers=HEADERS, background=closing)


async def records(reading: Reading) -> AsyncIterator[Record]:
    """The document's events; the last is `document_done`, or `error` where there is no text or reading failed."""
    told = Records()
    last: Record | None = None
    try:
        async for event in reading.events():
            for record in told.take(event):
                yield record
            if isinstance(event, DocumentDone):
                last = failure_record(event.result)
    except OcrMlxError as error:
        last = error_record(error)
    except Exception:
        yield internal_record()
        raise
    if last is not None:
        log.warning("failed: %s", last["code"])
        yield last


def _weight(parameters: str) -> float:
    """The q value, 1 where there is none, 0 for one that is no number."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
