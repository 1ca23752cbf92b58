"""Connections to engines elsewhere: those that the operator named may be anywhere, others only at public addresses."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable, Iterator
from typing import Any, Final

import httpcore
import httpx

from ocr_mlx.engine.remote import RemoteOptions
from ocr_mlx.errors import FetchFailed, RemoteFailed, SourceForbidden
from ocr_mlx.pages import addresses

_RESOLVE_SECONDS: Final = 5.0
_UNREACHED: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, str], ...]] = (
    (
        ssl.SSLCertVerificationError,
        "The remote engine's certificate is not trusted.",
        "Use the name that it is for, and put its authority into this machine's store (or SSL_CERT_FILE).",
    ),
    (
        ssl.SSLError,
        "No encrypted connection to the remote engine came about.",
        "An engine that does not speak TLS has an address with http://.",
    ),
    ((socket.gaierror, FetchFailed), "The remote engine's name is not known.", "Check its address, and the network."),
)
"""Why a connection did not come about, the most particular first: what is said of it, and what to do."""


class EngineTransport(httpx.AsyncHTTPTransport):
    """httpx's transport on connections that are checked. Nothing of the environment counts, proxies least of all."""

    def __init__(self, options: RemoteOptions, *, resolver: addresses.Resolver = addresses.resolve) -> None:
        context = ssl_context()
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=None,
            max_keepalive_connections=options.at_once,
            keepalive_expiry=5.0,
            network_backend=CheckedBackend(options, resolver),
        )


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Resolves the name of an engine that only `*` allows once, checks it, and connects to what was checked."""

    def __init__(self, options: RemoteOptions, resolver: addresses.Resolver) -> None:
        """`connect_tcp` raises SourceForbidden for an address that is not public."""
        self._inner = httpcore.AnyIOBackend()
        self._options = options
        self._resolver = resolver

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore."""
        if self._options.trusts(host, port):
            return await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        failure: Exception = httpcore.ConnectError()
        for address in await self._checked(host, port):
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _checked(self, host: str, port: int) -> list[str]:
        name = host.strip("[]")
        try:
            found = await asyncio.to_thread(addresses.resolve_within, _RESOLVE_SECONDS, self._resolver, name, port)
            addresses.check_public(name, found)
        except FetchFailed as error:
            raise httpcore.ConnectError from error
        except SourceForbidden:
            raise SourceForbidden(
                "This remote engine is on a private network or on this machine.",
                hint="* in OCR_MLX_REMOTE_HOSTS stands for public engines; add this one by its name, as host or host:port.",
            ) from None
        return found


def ssl_context() -> ssl.SSLContext:
    """Trusts what browsers trust, and what this machine's own store adds: an engine at home may have its own authority."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def unreached(error: Exception) -> RemoteFailed:
    """What went wrong on the way to an engine, or on the way back."""
    if not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return RemoteFailed(
            "The connection to the remote engine broke.", hint="Try again; the engine may have restarted."
        )
    causes = tuple(_causes(error))
    for kinds, message, hint in _UNREACHED:
        if any(isinstance(cause, kinds) for cause in causes):
            return RemoteFailed(message, hint=hint)
    return RemoteFailed(
        "The remote engine could not be reached.",
        hint="Check that it is running, and its address (OCR_MLX_REMOTE_ENDPOINT, or the one in the request).",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
