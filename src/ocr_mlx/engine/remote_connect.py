"""Connections to engines elsewhere: those that the operator named may be anywhere, others only at public addresses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import httpcore
import httpx

from ocr_mlx.engine.remote import RemoteOptions
from ocr_mlx.errors import FetchFailed, SourceForbidden
from ocr_mlx.pages import addresses

_RESOLVE_SECONDS: Final = 5.0


class EngineTransport(httpx.AsyncHTTPTransport):
    """httpx's transport on connections that are checked. Nothing of the environment counts, proxies least of all."""

    def __init__(self, options: RemoteOptions, *, resolver: addresses.Resolver = addresses.resolve) -> None:
        context = httpx.create_ssl_context(trust_env=False)
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
