"""What a call can raise.

OcrClientError
  NotReachable   nobody answers at the address
  TimedOut       the answer, or a job's end, did not come in time
  Refused        the server says no (4xx): `status` and `code` say why
  ServerFailed   the server could not do it (5xx), or broke off
  BadAnswer      the server answered something else than it should
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx

_CODE_HEADER = "X-OCR-MLX-Error"
_LONGEST = 2000
_GATEWAY_TIMEOUT = 504


class OcrClientError(Exception):
    """Base of all errors. `status` is the HTTP status, None where there was no answer; `code` is the server's short name
    for the reason, such as `unknown_model`, or empty."""

    def __init__(self, message: str, *, status: int | None = None, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code


class NotReachable(OcrClientError):
    """Nobody answers at the address."""


class TimedOut(OcrClientError):
    """The answer, or the end of a job, did not come in time."""


class Refused(OcrClientError):
    """The server says no: the document, the model, an option or the token (4xx)."""


class ServerFailed(OcrClientError):
    """The server could not do what it should (5xx), or broke off in the middle."""


class BadAnswer(OcrClientError):
    """The answer is not what the call promises; another kind of server may be at that address."""


def failure(response: httpx.Response) -> OcrClientError:
    """The error that a whole answer with a status of 400 and above stands for."""
    status = response.status_code
    message, code = _told(response)
    kind: type[OcrClientError] = Refused if status < 500 else ServerFailed
    return (TimedOut if status == _GATEWAY_TIMEOUT else kind)(
        message or f"The server answered {status} without a reason.",
        status=status,
        code=response.headers.get(_CODE_HEADER, "") or code,
    )


def not_an_address(address: str) -> OcrClientError:
    """For what nothing can be sent to."""
    return OcrClientError(f"{address!r} is no address of a server. Write it as http://host:port.")


@contextlib.contextmanager
def translated(address: str) -> Iterator[None]:
    """Turns what httpx raises into this module's errors."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NotReachable(f"No server answers at {address}. Start one with `ocr_mlx`, or give its address.") from error
    except httpx.TimeoutException as error:
        raise TimedOut(f"The server at {address} did not answer in time. Give a longer timeout.") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise not_an_address(address) from error
    except httpx.HTTPError as error:
        raise ServerFailed(f"The connection to {address} broke ({type(error).__name__}). Repeat the call.") from error


def _told(response: httpx.Response) -> tuple[str, str]:
    """Message and code out of an answer in any of the server's shapes, or text."""
    try:
        found: Any = response.json()
    except ValueError:
        return response.text.strip()[:_LONGEST], ""
    if not isinstance(found, dict):
        return "", ""
    if isinstance(found.get("error"), dict):
        return str(found["error"].get("message") or "")[:_LONGEST], str(found["error"].get("code") or "")
    return _detail(found.get("detail") or found.get("error"))[:_LONGEST], ""


def _detail(detail: Any) -> str:
    """A message, or FastAPI's list of violations as `field: what is wrong`."""
    if not isinstance(detail, list):
        return str(detail or "")
    return "; ".join(_violation(item) for item in detail)


def _violation(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    where = ".".join(str(part) for part in item.get("loc", ())[1:])
    said = str(item.get("msg", ""))
    return f"{where}: {said}" if where else said
