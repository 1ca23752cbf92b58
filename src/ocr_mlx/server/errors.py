"""The one place where errors become HTTP: class to status, and the shape of an error answer."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
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
    errors.ModelError: 500,
    errors.UnknownModel: 404,
    errors.UnsupportedArchitecture: 422,
    errors.CheckpointIncomplete: 422,
    errors.WeightMismatch: 422,
    errors.DownloadFailed: 502,
    errors.OutputExists: 409,
    errors.DecodeError: 500,
    errors.PromptTooLong: 422,
    errors.InvalidOption: 422,
    errors.Cancelled: 499,
    errors.TimedOut: 504,
    errors.EngineError: 500,
    errors.QueueFull: 429,
    errors.ShuttingDown: 503,
    errors.JobNotFound: 404,
    errors.OutOfMemory: 503,
}
RETRY_AFTER: Mapping[int, str] = {429: "5", 503: "10"}
"""Seconds, for the statuses that say `later`."""
CODE_HEADER = "X-OCR-MLX-Error"
_SHORT = 100


def status_of(kind: type[OcrMlxError]) -> int:
    """The status of an error class: its own, or that of the nearest class above it."""
    return next(STATUS[base] for base in kind.__mro__ if base in STATUS)


def status_of_code(code: str) -> int:
    """The status of an error that has become a record; 500 for a code that nobody declares."""
    return next((status_of(kind) for kind in _tree(OcrMlxError) if kind.code == code), 500)


def _tree(kind: type[OcrMlxError]) -> Iterator[type[OcrMlxError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def answer(
    scope: Scope, status: int, message: str, *, code: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """An error answer in the shape of its route: plain text where success is plain text, `{"detail": …}` elsewhere."""
    extra = dict(headers or {})
    if status in RETRY_AFTER:
        extra.setdefault("Retry-After", RETRY_AFTER[status])
    if code:
        extra[CODE_HEADER] = code
    if scope.get("method") == "POST" and scope.get("path") == "/ocr":
        return PlainTextResponse(message.encode("utf-8", "replace"), status, headers=extra)
    return JSONResponse({"detail": message}, status, headers=extra)


def install(app: FastAPI) -> None:
    """Give the application its error answers."""
    app.add_exception_handler(OcrMlxError, _known)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, OcrMlxError)  # noqa: S101 - the signature that Starlette wants is wider
    log.warning("failed: %s", error.code)
    return answer(request.scope, status_of(type(error)), str(error), code=error.code)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    return answer(request.scope, error.status_code, error.detail, headers=error.headers)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    return JSONResponse({"detail": [_violation(item) for item in error.errors()]}, 422)


def _violation(item: Mapping[str, Any]) -> dict[str, Any]:
    """One violation in FastAPI's shape. The input is echoed only where it is short, harmless and valid JSON."""
    violation = {"type": item["type"], "loc": list(item["loc"]), "msg": item["msg"]}
    if "ctx" in item:
        violation["ctx"] = {key: value if _plain(value) else str(value) for key, value in item["ctx"].items()}
    if "input" in item and "password" not in item["loc"]:
        if _plain(item["input"]) or item["input"] in ({}, []):
            violation["input"] = item["input"]
    return violation


def _plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= _SHORT and not any("\ud800" <= char <= "\udfff" for char in value)
    return value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63)
