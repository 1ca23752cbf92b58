"""Following a document: its events, what they come to, and how it can end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ocr_mlx.client import AsyncClient, BadAnswer, Client, Event, Page, Refused, ServerFailed, TimedOut
from ocr_mlx.client.live import Follow
from tests.unit.client.talking import URL, Pieces, Server

Ask = Callable[..., Any]


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['event']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def done(page: int, text: str, status: str = "ok", **more: Any) -> dict[str, Any]:
    record = {"event": "page_done", "page": page, "index": page, "status": status, "text": text, "raw_text": text}
    record |= {"confidence": 0.5, "tokens": {"prompt": 1, "generated": 2}, "seconds": 0.25, "cached": False}
    return record | {"error": None} | more


STARTED = {"event": "document_started", "model": "m", "pages": [0, 1]}
USAGE = {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
END = {"event": "document_done", "model": "m", "statuses": ["ok", "failed"], "usage": USAGE, "seconds": 1.5}
TORN = {"code": "bad_pdf", "message": "Torn."}
WHOLE = [
    {"event": "model_progress", "model": "m", "stage": "loading", "done": 0, "total": 0},
    STARTED,
    {"event": "page_started", "page": 0},
    {"event": "text", "page": 0, "delta": "so so so", "tokens": 3},
    {"event": "rewind", "page": 0, "length": 3},
    done(1, "", "failed", error=TORN, confidence=None, cached=True),
    {"event": "text", "page": 0, "delta": "än", "tokens": 1},
    done(0, "so än"),
    END,
]


def test_every_event_comes_with_its_page(ask: Ask) -> None:
    server = Server(Pieces(*(sse(*WHOLE)[at : at + 7] for at in range(0, len(sse(*WHOLE)), 7))))
    events = ask(server, "follow", b"\x89PNG", pages="1-2", timeout=9.5, fresh=True)
    [request] = server.requests
    sent = json.loads(request.content)
    assert (request.method, request.url.path, request.headers["accept"]) == ("POST", "/ocr", "text/event-stream")
    assert (sent["pages"], sent["timeout"], sent["fresh"]) == ("1-2", 9.5, True) and sent["filename"].startswith(
        "data:"
    )
    assert [event.data for event in events] == WHOLE and [event.kind for event in events] == [e["event"] for e in WHOLE]
    assert [event.page for event in events if event.page] == [
        Page(number=2, status="failed", text="", tokens=2, prompt_tokens=1, seconds=0.25, cached=True, error="Torn."),
        Page(number=1, status="ok", text="so än", confidence=0.5, tokens=2, prompt_tokens=1, seconds=0.25),
    ]


def test_what_the_events_come_to() -> None:
    follow = Follow()
    seen = []
    for event in WHOLE:
        list(follow.feed(sse(event)))
        seen.append(follow.texts.get(1))
    assert seen == [None, None, None, "so so so", "so ", "so ", "so än", "so än", "so än"]
    assert (follow.model, follow.statuses, follow.usage, follow.seconds) == ("m", ("ok", "failed"), USAGE, 1.5)
    assert [page.number for page in follow.pages] == [2, 1] and follow.text == "so än"
    follow.end()


def test_the_pages_alone() -> None:
    transport = httpx.MockTransport(Server(Pieces(sse(*WHOLE))))
    with Client(URL, transport=transport) as client, client.follow(b"x") as reading:
        assert [page.number for page in reading.pages()] == [2, 1]
        assert reading.document.statuses == ("ok", "failed")


def test_the_pages_alone_in_asyncio() -> None:
    async def run() -> list[int]:
        transport = httpx.MockTransport(Server(Pieces(sse(*WHOLE))))
        async with AsyncClient(URL, transport=transport) as client, client.follow(b"x") as reading:
            return [page.number async for page in reading.pages()]

    assert asyncio.run(run()) == [2, 1]


@pytest.mark.parametrize(("status", "kind"), [(422, Refused), (503, ServerFailed), (504, TimedOut)])
def test_an_error_on_the_way_is_raised(ask: Ask, status: int, kind: type[Exception]) -> None:
    told = [STARTED, done(0, "one"), {"event": "error", "code": "c", "message": "Why.", "status": status}]
    with pytest.raises(kind, match="Why") as caught:
        ask(Server(Pieces(sse(*told))), "follow", b"x")
    assert (caught.value.status, caught.value.code) == (status, "c")  # type: ignore[attr-defined]


def test_a_status_before_the_start_is_raised(ask: Ask) -> None:
    with pytest.raises(Refused, match="No such model") as caught:
        ask(
            Server(httpx.Response(404, text="No such model.", headers={"X-OCR-MLX-Error": "unknown_model"})),
            "follow",
            b"x",
        )
    assert caught.value.code == "unknown_model"


def test_an_answer_that_breaks_off_is_no_document(ask: Ask) -> None:
    with pytest.raises(ServerFailed, match="broke off"):
        ask(Server(Pieces(sse(STARTED, done(0, "one")))), "follow", b"x")


@pytest.mark.parametrize("body", [b"data: {\n\n", sse({"event": "page_done"}), sse({"event": "error"})])
def test_other_events_are_a_bad_answer(ask: Ask, body: bytes) -> None:
    with pytest.raises(BadAnswer):
        ask(Server(Pieces(body)), "follow", b"x")


def test_what_a_newer_server_adds_passes() -> None:
    [event] = Follow().feed(sse({"event": "weather", "is": "fine"}))
    assert event == Event(kind="weather", data={"event": "weather", "is": "fine"})


def test_closing_lets_go_of_the_connection() -> None:
    pieces = Pieces(*(sse(event) for event in WHOLE))
    with Client(URL, transport=httpx.MockTransport(Server(pieces))) as client:
        with client.follow(b"x") as reading:
            next(reading)
        assert pieces.closed and pieces.given < len(WHOLE)
