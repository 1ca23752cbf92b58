"""Sending to an address that a caller named: checked when it is named, and again, pinned, when it is connected to."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote

import httpcore
import httpx

from ocr_mlx.errors import FetchFailed, SourceForbidden
from ocr_mlx.pages import addresses
from ocr_mlx.pages.remote import Deadline, PinnedBackend, core_url

_RESOLVE_SECONDS: Final = 2.0
_MOST_CHARACTERS: Final = 2048
_PIECE_BYTES: Final = 16 * 1024
_FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError)
_SLOW = (httpcore.TimeoutException, TimeoutError)


def check_address(url: str, *, private: bool, resolver: addresses.Resolver = addresses.resolve) -> None:
    """Raise SourceForbidden for an address that nothing may be sent to. A host that is not found now may be later."""
    host, port = _parse(url).host, _parse(url).port
    if private:
        return
    try:
        found = addresses.resolve_within(_RESOLVE_SECONDS, resolver, host.strip("[]"), port or 443)
        addresses.check_public(host, found)
    except FetchFailed:
        return
    except SourceForbidden:
        raise SourceForbidden(
            "The webhook's host is on a private network or on this machine.",
            hint="Give a public address, or set OCR_MLX_WEBHOOK_PRIVATE=1 to allow such hosts.",
        ) from None


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout: float,
    private: bool,
    resolver: addresses.Resolver = addresses.resolve,
) -> tuple[int | None, str]:
    """The answer's status, None without one, and what to say of it. `timeout` seconds for everything."""
    try:
        status = _post(_parse(url), body, headers, Deadline(timeout), private, resolver)
    except _SLOW:
        return None, f"no answer within {timeout:g} seconds"
    except _FAILURES:
        return None, "the host could not be reached"
    except FetchFailed:
        return None, "the host was not found"
    except SourceForbidden:
        return None, "the host is on a private network or on this machine"
    redirect = ": redirects are not followed" if 300 <= status < 400 else ""
    return status, f"answered with status {status}{redirect}"


def _post(
    url: httpx.URL,
    body: bytes,
    headers: Mapping[str, str],
    deadline: Deadline,
    private: bool,
    resolver: addresses.Resolver,
) -> int:
    """The name is resolved once, checked, and connected to as checked; no proxy."""
    all_headers = {"Host": url.netloc.decode("ascii"), "User-Agent": "ocr_mlx", **headers}
    all_headers["Content-Length"] = str(len(body))
    if url.userinfo:
        credentials = base64.b64encode(unquote(url.userinfo.decode("ascii")).encode()).decode("ascii")
        all_headers["Authorization"] = f"Basic {credentials}"
    backend = PinnedBackend(deadline, allow_private=private, resolver=resolver)
    with httpcore.ConnectionPool(network_backend=backend, max_keepalive_connections=0) as pool:
        with pool.stream("POST", core_url(url), headers=list(all_headers.items()), content=_pieces(body)) as answer:
            return answer.status


def _pieces(body: bytes) -> Iterator[bytes]:
    """Each is written by the deadline; one write of everything has the time anew with every byte that is taken."""
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]


def _parse(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
        fits = len(url) <= _MOST_CHARACTERS and parsed.scheme in ("http", "https") and parsed.host != ""
    except (httpx.InvalidURL, ValueError):  # a host that is no name shows only when it is asked for
        fits = False
    if not fits:
        raise SourceForbidden(
            "The webhook's address is not one to send to.", hint="Give an http:// or https:// address."
        )
    return parsed
