"""`POST /ocr`: JSON in, plain text out, or a stream of events for those who ask for one."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from ocr_mlx.domain import OcrRequest
from ocr_mlx.outputs.outcome import failure
from ocr_mlx.server.deps import Context
from ocr_mlx.server.errors import answer, status_of_code
from ocr_mlx.server.ocr import convert, stream
from ocr_mlx.server.ocr.events import NAMES
from ocr_mlx.server.ocr.schemas import OCRRequest
from ocr_mlx.server.texts import headers

log = logging.getLogger(__name__)
router = APIRouter()


TEXT = {"schema": {"type": "string"}}
INVALID = {"$ref": "#/components/schemas/HTTPValidationError"}


def _failed(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"text/plain": TEXT}}


FAILURES: dict[int | str, dict[str, Any]] = {
    400: _failed("The document could not be had"),
    401: _failed("A token is needed"),
    403: _failed("The file, address, Host or Origin is not allowed"),
    404: _failed("No such file, or no such model"),
    413: _failed("The document is too large"),
    415: _failed("The document or the body is of a kind that is not read here"),
    408: _failed("The rest of the request never came"),
    422: _failed("A page, a prompt or an option cannot be read or asked")
    | {"content": {"text/plain": TEXT, "application/json": {"schema": INVALID}}},
    429: _failed("Too much work is waiting; Retry-After says when to come back"),
    500: _failed("The model or the engine failed"),
    502: _failed("A download failed"),
    499: _failed("The client has gone"),
    504: _failed("Reading took too long"),
    503: _failed("The server is shutting down, or out of memory"),
}


LINE = {"type": "object", "properties": {"event": {"type": "string", "enum": NAMES}}, "required": ["event"]}
"""One line of `application/x-ndjson`."""
STREAMS = {stream.SSE: {"schema": {"type": "string"}}, stream.NDJSON: {"schema": LINE}}
READ: dict[int | str, dict[str, Any]] = {200: {"description": "The text, or the events", "content": STREAMS}}


@router.post("/ocr", tags=["ocr"], response_class=PlainTextResponse, responses=READ | FAILURES)
async def ocr(body: OCRRequest, request: Request, context: Context) -> Response:
    """Read a document. The text of all pages, joined by a blank line; empty only when every page is blank.

    The headers `X-OCR-MLX-Pages`, `X-OCR-MLX-Status` and `X-OCR-MLX-Error` say what became of each page.

    With `Accept: text/event-stream` or `application/x-ndjson` the pages come while they are read, as events (`event` in an
    event's JSON is its name too): `model_progress`, `document_started`, `page_started`, `text`, `rewind`, `page_done`,
    `document_done`; the last is `document_done` or `error`.
    """

    def prepare() -> OcrRequest:
        return convert.to_request(body, context.models)

    kind = stream.wanted(",".join(request.headers.getlist("accept")))
    if kind is not None:
        reading = context.runner.read(prepare)
        await reading.begun(request.receive, stream.PATIENCE)
        return stream.respond(reading, kind)
    result = await context.runner.run(prepare, request.receive)
    told = headers(result)
    bad = failure(result)
    if bad is None:
        return PlainTextResponse(result.text.encode("utf-8", "replace"), headers=told)
    log.warning("failed: %s", bad.code)
    return answer(request.scope, status_of_code(bad.code), bad.message, code=bad.code, headers=told)
