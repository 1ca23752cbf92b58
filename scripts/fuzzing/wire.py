"""The whole application without a socket and without an engine: one request in, one answer out."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import Any

from ocr_mlx.server.app import create_app
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, context

_HOST = b"127.0.0.1"
_SECONDS = 8.0


@functools.cache
def _app() -> tuple[Any, asyncio.AbstractEventLoop]:
    return create_app(context(FakeService(), Settings.from_env({}))), asyncio.new_event_loop()


def post(path: str, body: bytes, headers: Mapping[bytes, bytes]) -> int:
    """The answer's status; never 500, nor an error that nobody understood."""
    app, loop = _app()
    status = loop.run_until_complete(asyncio.wait_for(_post(app, path, body, headers), _SECONDS))
    assert status < 500, f"{path} answered {status}"
    return status


async def _post(app: Any, path: str, body: bytes, headers: Mapping[bytes, bytes]) -> int:
    statuses: list[int] = []
    sent = False
    more = [(b"host", _HOST), (b"content-length", b"%d" % len(body))]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*more, *headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await asyncio.sleep(_SECONDS)
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    return statuses[0]
