from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ocr_mlx.server import guard


def run(app: ASGIApp, first: list[Message], *, length: int = 0) -> list[Message]:
    """What is sent to a client that says `first` and then nothing more."""
    sent: list[Message] = []

    async def receive() -> Message:
        return first.pop(0) if first else await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", str(length).encode()), (b"content-type", b"application/json")]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/read", "headers": headers, "query_string": b""}
    asyncio.run(guard.BodySizeGuard(app, most=10)(scope, receive, send))
    return sent


def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_BODY_SECONDS", 0.01)
    app = FastAPI()

    @app.post("/read")
    async def read(body: Annotated[dict[str, str], Body()]) -> None: ...

    assert run(app, [{"type": "http.request", "body": b"{", "more_body": True}])[0]["status"] == 408


def test_a_claim_without_a_body_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_DRAIN_SECONDS", 0.01)
    assert run(FastAPI(), [], length=11)[0]["status"] == 413


def test_a_route_that_runs_out_of_time_is_no_stalled_body() -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        run(late, [])


def test_a_request_that_the_servers_end_cuts_off_leaves_no_trace() -> None:
    async def cut_off(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    async def never() -> Message:
        raise AssertionError

    async def ignore(message: Message) -> None:
        raise AssertionError

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/ocr", "headers": []}
    asyncio.run(guard.RequestLog(cut_off, instance="x")(scope, never, ignore))
