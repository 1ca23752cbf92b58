"""Fetching one http or https address: checked and pinned addresses, redirects by hand, one deadline for everything.

This talks to httpcore, the engine under httpx, because only there can a name be resolved once, checked, and connected
to as checked, and every single read be given the time that is left. It reads no proxy settings from the environment.
"""

from __future__ import annotations

import base64
import ssl
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

import httpcore
import httpx

from ocr_mlx.errors import FetchFailed, SourceForbidden
from ocr_mlx.pages import addresses
from ocr_mlx.pages.fetch import FetchLimits, check_size

_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSPORT_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError)
_SLOW = (httpcore.TimeoutException, TimeoutError)
_CHECK = "Check the address and the network connection."
_DAMAGED_BODY = "The answer's compressed body is damaged."


class Deadline:
    """A point in time, and how far it is."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Seconds left, above zero. TimeoutError when there are none."""
        left = self._end - self._clock()
        if left <= 0:
            raise TimeoutError
        return left


class _Stream(httpcore.NetworkStream):
    """A connection whose every operation ends by the deadline."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _Stream(inner, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class PinnedBackend(httpcore.NetworkBackend):
    """Connects to the addresses that were checked and to no others."""

    def __init__(
        self, deadline: Deadline, *, allow_private: bool, resolver: addresses.Resolver = addresses.resolve
    ) -> None:
        """`connect_tcp` raises FetchFailed for a host that is not found, SourceForbidden for one that is not public."""
        self._inner = httpcore.SyncBackend()
        self._deadline = deadline
        self._allow_private = allow_private
        self._resolver = resolver

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        found = addresses.resolve_within(self._deadline.left(), self._resolver, host.strip("[]"), port)
        if not self._allow_private:
            addresses.check_public(host, found)
        failure: Exception = OSError(host)
        for address in found:
            try:
                inner = self._inner.connect_tcp(address, port, self._share_of(len(found)), None, socket_options)
                return _Stream(inner, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _share_of(self, addresses_found: int) -> float:
        # One dead address (often an unroutable IPv6 one) must not eat the time of the others.
        return self._deadline.left() / min(addresses_found, 3)


def fetch_url(url: str, limits: FetchLimits, *, resolver: addresses.Resolver = addresses.resolve) -> bytes:
    """The body of a 2xx answer, at most `limits.max_bytes`, within `limits.timeout` seconds in all.

    FetchFailed: no such host, no answer in time, a status that is not 2xx, too many redirects. SourceForbidden: neither
    http nor https, or an address that is not public. SourceTooLarge.
    """
    deadline = Deadline(limits.timeout)
    backend = PinnedBackend(deadline, allow_private=limits.allow_private, resolver=resolver)
    current = _parse(url)
    with httpcore.ConnectionPool(network_backend=backend, max_keepalive_connections=0) as pool:
        for _ in range(_MOST_REDIRECTS + 1):
            answer = _get(pool, current, limits)
            if isinstance(answer, bytes):
                return answer
            current = answer
    raise FetchFailed(f"{_public_name(current)} redirects too often.", hint="Use the final address.")


def _parse(url: str) -> httpx.URL:
    try:
        return _check_scheme(httpx.URL(url))
    except (httpx.InvalidURL, ValueError) as error:  # ValueError: of the host's name too, which is decoded when read
        raise FetchFailed("The address is malformed.", hint=_CHECK) from error


def _check_scheme(url: httpx.URL) -> httpx.URL:
    if url.scheme not in ("http", "https") or not url.host:
        raise SourceForbidden("Only http and https addresses are fetched.", hint="Send the document itself.")
    return url


def _get(pool: httpcore.ConnectionPool, url: httpx.URL, limits: FetchLimits) -> bytes | httpx.URL:
    """The body, or where to go next."""
    try:
        with pool.stream("GET", core_url(url), headers=_headers(url)) as response:
            location = _header(response, b"location")
            if response.status in _REDIRECTS and location:
                return _redirect(url, location)
            if not 200 <= response.status < 300:
                raise FetchFailed(
                    f"{_public_name(url)} answered with status {response.status}.", hint=_advice(response.status)
                )
            return _read(response, limits)
    except _SLOW as error:
        raise FetchFailed(
            f"{_public_name(url)} did not deliver within {limits.timeout:g} seconds.",
            hint="Try again, or download the document and send it.",
        ) from error
    except _TRANSPORT_ERRORS as error:
        raise FetchFailed(f"{_public_name(url)} could not be reached.", hint=_CHECK) from error


def _read(response: httpcore.Response, limits: FetchLimits) -> bytes:
    declared = _header(response, b"content-length")
    check_size(int(declared) if declared.isdecimal() else 0, limits.max_bytes)
    body = bytearray()  # and no list of pieces, which a server can make as small as it likes
    for piece in response.iter_stream():
        check_size(len(body) + len(piece), limits.max_bytes)
        body += piece
    return _decoded(bytes(body), _header(response, b"content-encoding"), limits.max_bytes)


def _decoded(body: bytes, encoding: str, most: int) -> bytes:
    """Undo gzip or deflate, which some servers apply although they were asked not to."""
    if not body or encoding.lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    inflater = zlib.decompressobj(wbits=47 if "gzip" in encoding.lower() else 15)
    try:
        inflated = inflater.decompress(body, most + 1)
    except zlib.error as error:
        raise FetchFailed(_DAMAGED_BODY, hint="Try again.") from error
    check_size(len(inflated), most)
    if not inflater.eof:
        raise FetchFailed(_DAMAGED_BODY, hint="Try again.")
    return inflated


def _redirect(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return _check_scheme(url.join(location).copy_with(fragment=None))
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchFailed(f"{_public_name(url)} redirects to a malformed address.", hint=_CHECK) from error


def core_url(url: httpx.URL) -> httpcore.URL:
    """The same address as httpcore takes it."""
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _headers(url: httpx.URL) -> list[tuple[str, str]]:
    headers = [
        ("User-Agent", "ocr_mlx"),
        ("Accept", "application/pdf, image/*, */*;q=0.5"),
        ("Accept-Encoding", "identity"),
    ]
    if url.userinfo:
        credentials = base64.b64encode(unquote(url.userinfo.decode("ascii")).encode()).decode("ascii")
        headers.append(("Authorization", f"Basic {credentials}"))
    return headers


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def _public_name(url: httpx.URL) -> str:
    """The address without what may be secret in it: user, password and query."""
    path = url.raw_path.partition(b"?")[0]
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}{path.decode('ascii', 'replace')}"[:200]


def _advice(status: int) -> str:
    if status in (401, 403):
        return "The address wants a login; download the document and send it."
    if status in (404, 410):
        return "Check the address."
    return "Try again later, or download the document and send it."
