"""`POST /llm/ocr`: JSON in, plain text out; an engine elsewhere reads."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from ocr_mlx.errors import OcrMlxError
from ocr_mlx.outputs.outcome import failure
from ocr_mlx.server.deps import Context
from ocr_mlx.server.errors import answer, status_of, status_of_code, when
from ocr_mlx.server.llm import convert
from ocr_mlx.server.llm.schemas import LLMOCRRequest
from ocr_mlx.server.texts import headers

log = logging.getLogger(__name__)
router = APIRouter()


DETAIL = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
INVALID = {"anyOf": [{"$ref": "#/components/schemas/HTTPValidationError"}, DETAIL]}


def _failed(description: str, schema: dict[str, Any] = DETAIL) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


FAILURES: dict[int | str, dict[str, Any]] = {
    400: _failed("The document could not be had"),
    401: _failed("A token is needed"),
    403: _failed("The file, address, engine, Host or Origin is not allowed"),
    404: _failed("No such file"),
    408: _failed("The rest of the request never came"),
    413: _failed("The document is too large"),
    415: _failed("The document or the body is of a kind that is not read here"),
    422: _failed("A field is not valid, or a page or an option cannot be read or asked", INVALID),
    429: _failed("Too much work is waiting; Retry-After says when to come back"),
    499: _failed("The client has gone"),
    500: _failed("Reading failed"),
    502: _failed("The engine, or the document's server, could not be reached or failed"),
    503: _failed("The server is shutting down, or out of memory"),
    504: _failed("The engine took too long"),
}


@router.post("/llm/ocr", tags=["llm"], response_class=PlainTextResponse, responses=FAILURES)
async def llm_ocr(body: LLMOCRRequest, request: Request, context: Context) -> Response:
    """Read a document with an OpenAI-style engine. The text of all pages, joined by a blank line."""
    try:
        result = await context.runner.run(lambda: convert.to_request(body, context.settings), request.receive)
    except OcrMlxError as error:
        log.warning("failed: %s", error.code)
        return answer(request.scope, status_of(type(error)), _told(str(error)), code=error.code, headers=when(error))
    told, bad = headers(result), failure(result)
    if bad is None:
        return PlainTextResponse(convert.clean(result.text).encode("utf-8", "replace"), headers=told)
    log.warning("failed: %s", bad.code)
    return answer(request.scope, status_of_code(bad.code), _told(bad.message), code=bad.code, headers=told)


def _told(message: str) -> str:
    return f"LLM OCR failed: {message}"
