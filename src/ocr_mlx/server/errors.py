"""The one place where errors become HTTP: class to status, and the shape of an error answer."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Scope

from ocr_mlx import errors
from ocr_mlx.errors import OcrMlxError

log = logging.getLogger(__name__)

STATUS: Mapping[type[OcrMlxError], int] = {
    OcrMlxError: 500,
    errors.SourceError: 400,
    errors.SourceNotFound: 404,
    errors.SourceForbidden: 403,
    errors.SourceTooLarge: 413,
    errors.FetchFailed: 502,
    errors.UnsupportedMedia: 415,
    errors.PageError: 422,
    errors.ModelError: 422,
    errors.UnknownModel: 404,
    errors.UnsupportedArchitecture: 422,
    errors.CheckpointIncomplete: 422,
    errors.WeightMismatch: 422,
    errors.DownloadFailed: 502,
    errors.ModelNotHere: 404,
    errors.OutputExists: 409,
    errors.DecodeError: 500,
    errors.PromptTooLong: 422,
    errors.InvalidOption: 422,
    errors.Cancelled: 499,
    errors.TimedOut: 504,
    errors.EngineError: 500,
    errors.QueueFull: 429,
    errors.JobsUnavailable: 503,
    errors.ShuttingDown: 503,
    errors.JobNotFound: 404,
    errors.OutOfMemory: 503,
    errors.RemoteFailed: 502,
}
RETRY_AFTER: Mapping[int, str] = {429: "5", 503: "10"}
"""Seconds, for the statuses that say `later`."""
CODE_HEADER = "X-OCR-MLX-Error"
INVALID = "invalid_request"
CODES: Mapping[int, str] = {
    400: INVALID,
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: errors.SourceTooLarge.code,
    415: errors.UnsupportedMedia.code,
}
"""Codes of answers that come from no error of the tree."""
OPENAI_TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's error types that do not follow from the status's first digit."""
_ASTRAY = ("/chat/completions", "/responses")
"""What OpenAI's clients ask for when `/v1` is missing in their base address."""
_SHORT = 100
_LONGEST_TEXT = 5000
"""Characters of an answer: an error's message with its hint, and what a route puts before it."""
_LONGEST = 60.0
"""Seconds that a client is told to wait at most."""
_UNREADABLE = "There was an error parsing the body"
"""FastAPI's words."""
_SECRET = frozenset({"password", "api_key"})
"""Fields whose input is never echoed."""


class Problem(BaseModel):
    """Why not, and what to do."""

    detail: str


def problem(description: str) -> dict[str, Any]:
    """How a route's description tells of an error answer."""
    return {"description": description, "model": Problem}


READING: dict[int | str, dict[str, Any]] = {
    413: problem("The file is too large"),
    429: problem("Too much work is waiting; Retry-After says when to come back"),
    499: problem("The client has gone"),
    500: problem("The model failed"),
    502: problem("The engine elsewhere failed"),
    503: problem("The model cannot be had now, the memory is full, or the server is shutting down"),
    504: problem("Reading took too long"),
}
"""What every route can answer that reads a file at once."""


def status_of(kind: type[OcrMlxError]) -> int:
    """The status of an error class: its own, or that of the nearest class above it."""
    return next(STATUS[base] for base in kind.__mro__ if base in STATUS)


def status_of_code(code: str) -> int:
    """The status of an error that has become a record; 500 for a code that nobody declares."""
    return status_of(kind_of_code(code))


def kind_of_code(code: str) -> type[OcrMlxError]:
    """The class of an error that has become a record; OcrMlxError for a code that nobody declares."""
    return next((kind for kind in _tree(OcrMlxError) if kind.code == code), OcrMlxError)


def _tree(kind: type[OcrMlxError]) -> Iterator[type[OcrMlxError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def answer(
    scope: Scope, status: int, message: str, *, code: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """An error answer in its route's shape: text where success is text, OpenAI's under `/v1/`, else `{"detail": …}`."""
    extra = dict(headers or {})
    code = code or extra.get(CODE_HEADER, CODES.get(status, OcrMlxError.code))
    extra[CODE_HEADER] = code
    if status in RETRY_AFTER:
        extra.setdefault("Retry-After", RETRY_AFTER[status])
    message = errors.showable(message, _LONGEST_TEXT)
    if _is_text(scope):
        return PlainTextResponse(message, status, headers=extra)
    if _is_openai(scope):
        return JSONResponse(openai_error(status, message, code=code), status, headers=extra)
    return JSONResponse({"detail": message}, status, headers=extra)


def openai_error(status: int, message: str, *, code: str = "", param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or None}}


def _is_text(scope: Scope) -> bool:
    """Whether the route answers plain text: `/ocr` with JSON."""
    if scope.get("method") != "POST" or scope.get("path") != "/ocr":
        return False
    kind = Headers(scope=scope).get("content-type", "") if "headers" in scope else ""
    return not kind.lower().startswith("multipart/")


def _is_openai(scope: Scope) -> bool:
    path = str(scope.get("path", ""))
    return path == "/v1" or path.startswith("/v1/") or path in _ASTRAY


def install(app: FastAPI) -> None:
    """Give the application its error answers."""
    app.add_exception_handler(OcrMlxError, _known)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, OcrMlxError)  # noqa: S101 - the signature that Starlette wants is wider
    log.warning("failed: %s", error.code)
    return answer(request.scope, status_of(type(error)), str(error), code=error.code, headers=when(error))


def when(error: OcrMlxError) -> dict[str, str]:
    """The Retry-After of an error that knows it; the others have that of their status."""
    seconds = error.seconds if isinstance(error, errors.QueueFull) else None
    if seconds is None:
        return {}
    return {"Retry-After": str(math.ceil(min(max(seconds, 1.0), _LONGEST)))}


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    headers = dict(error.headers or {})
    if error.status_code == 405 and "route" in request.scope:
        headers["Allow"] = _allowed(request) or headers.get("Allow", "")
    words = error.detail
    if headers.get("Allow") and _is_openai(request.scope):
        words = f"This route takes {headers['Allow']}."
    if error.status_code == 400 and words.startswith(_UNREADABLE):
        words = "The body cannot be read: it must be JSON in UTF-8, or a form, as its Content-Type says."
    if error.status_code == 404 and words == "Not Found":
        words = _nowhere(request.scope) or words
    return answer(request.scope, error.status_code, words, headers=headers)


def _nowhere(scope: Scope) -> str:
    """What helps a client of OpenAI's that asked for a route that is not there."""
    if scope["path"] in _ASTRAY:
        return f"{scope['path']} is under /v1 here: let the client's base address end in /v1."
    return "There is no such route here; /openapi.json lists what there is." if _is_openai(scope) else ""


def _allowed(request: Request) -> str:
    """The methods of all routes of the path that was met; Starlette tells those of one."""
    path = request.scope["route"].path
    routes = [route for route in iter_route_contexts(request.app.routes) if getattr(route, "path", "") == path]
    return ", ".join(sorted({method for one in routes if one.include_in_schema for method in one.methods or ()}))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    headers = {CODE_HEADER: INVALID}
    if _is_openai(request.scope):
        return _invalid_for_openai(request, error.errors()[0])
    return JSONResponse({"detail": [_violation(item) for item in error.errors()]}, 422, headers=headers)


def _invalid_for_openai(request: Request, first: Mapping[str, Any]) -> Response:
    """The first violation as OpenAI's error. A form is 415: its routes read JSON alone."""
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        return answer(request.scope, 415, "The body must be JSON here, with Content-Type: application/json.")
    where = _field(first["loc"][1:])
    if first["type"] == "json_invalid":
        where, message = "", f"The body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}."
    elif where:
        message = f"{where}: {first['msg']}"
    else:
        message = "The body must be a JSON object."
    body = openai_error(400, message, code=INVALID, param=where or None)
    return JSONResponse(body, 400, headers={CODE_HEADER: INVALID})


def _field(path: Sequence[int | str]) -> str:
    """A field as OpenAI names it: `messages[0].content`. Names of forms that a value can have begin with an underline."""
    named = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path if str(part)[:1] != "_")
    return named.removeprefix(".")


def _violation(item: Mapping[str, Any]) -> dict[str, Any]:
    """One violation in FastAPI's shape. No text is echoed: it may be a document's."""
    violation = {"type": item["type"], "loc": list(item["loc"]), "msg": item["msg"]}
    if "UploadFile" in item["msg"]:
        return violation | {"msg": "Value error, a file was expected here, not text"}
    if "ctx" in item:
        violation["ctx"] = {key: value if _plain(value) else str(value) for key, value in item["ctx"].items()}
    if "input" in item and _SECRET.isdisjoint(item["loc"]):
        if not isinstance(item["input"], str) and (_plain(item["input"]) or item["input"] in ({}, [])):
            violation["input"] = item["input"]
    return violation


def _plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= _SHORT and not any("\ud800" <= char <= "\udfff" for char in value)
    return value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63)
