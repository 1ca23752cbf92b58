"""Text as it comes, events, and waiting for jobs: what goes on for longer than one answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ocr_mlx.client import AsyncClient, BadAnswer, Client, Job, NotReachable, Refused, ServerFailed, TimedOut
from ocr_mlx.client.following import PATIENCE
from tests.unit.client.talking import URL, Pieces, Server, job

Ask = Callable[..., Any]
PNG = b"\x89PNG\r\n\x1a\n"


def chunk(content: str = "", finish: str | None = None, **more: Any) -> bytes:
    told = {"model": "m", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]} | more
    return f"data: {json.dumps(told, ensure_ascii=False)}\n\n".encode()


REPORT = {
    "confidence": 0.8,
    "pages": [{"index": 0, "status": "ok"}, {"index": 1, "status": "loop_stopped", "text": "short"}],
}
END = chunk("", "length", ocr=REPORT) + b'data: {"choices": [], "usage": {"total_tokens": 5}}\n\n' + b"data: [DONE]\n\n"


def test_text_comes_in_pieces_wherever_the_bytes_are_cut(ask: Ask) -> None:
    whole = chunk("Gr\u00fc\u00dfe \u2028") + b": still here\n\n" + chunk("aus\r\n") + chunk("Ulm") + END
    for size in (1, 7, len(whole)):
        server = Server(Pieces(*(whole[at : at + size] for at in range(0, len(whole), size))))
        assert "".join(ask(server, "stream", PNG, model="m")) == "Gr\u00fc\u00dfe \u2028aus\r\nUlm"
    sent = json.loads(server.requests[0].content)
    assert sent["stream"] is True and sent["stream_options"] == {"include_usage": True}


def test_a_stream_says_afterwards_how_it_ended() -> None:
    with Client(URL, transport=httpx.MockTransport(Server(Pieces(chunk("a"), END)))) as client:
        stream = client.stream(PNG, model="m")
        assert list(stream) == ["a"]
        end = stream.outcome
    assert (end.model, end.finish_reason, end.confidence, end.usage) == ("m", "length", 0.8, {"total_tokens": 5})
    assert end.statuses == ("ok", "loop_stopped") and end.corrections == {2: "short"}


def test_a_stream_that_is_closed_closes_its_connection() -> None:
    for leave in (True, False):
        pieces = Pieces(chunk("a"), chunk("b"), END)
        with Client(URL, transport=httpx.MockTransport(Server(pieces))) as client:
            stream = client.stream(PNG, model="m")
            assert next(stream) == "a"
            if leave:
                stream.close()
            else:
                with stream:
                    pass
            assert pieces.closed and pieces.given == 1
            assert list(stream) == []


def test_a_stream_of_asyncio_that_is_left_closes_its_connection() -> None:
    pieces = Pieces(chunk("a"), chunk("b"), END)

    async def run() -> None:
        async with AsyncClient(URL, transport=httpx.MockTransport(Server(pieces))) as client:
            async with client.stream(PNG, model="m") as stream:
                assert await anext(stream) == "a"

    asyncio.run(run())
    assert pieces.closed and pieces.given == 1


def test_a_stream_that_fails(ask: Ask) -> None:
    bad = b'data: {"error": {"message": "No memory.", "code": "out_of_memory"}}\n\ndata: [DONE]\n\n'
    with pytest.raises(ServerFailed, match="No memory") as caught:
        ask(Server(Pieces(chunk("a"), bad)), "stream", PNG, model="m")
    assert caught.value.code == "out_of_memory"
    with pytest.raises(ServerFailed, match="broke off"):
        ask(Server(Pieces(chunk("a"))), "stream", PNG, model="m")
    with pytest.raises(ServerFailed, match="broke"):
        ask(Server(Pieces(chunk("a"), httpx.ReadError("gone"))), "stream", PNG, model="m")
    with pytest.raises(BadAnswer):
        ask(Server(Pieces(b"data: <html>\n\n")), "stream", PNG, model="m")
    with pytest.raises(Refused, match="No such model"):
        ask(Server(httpx.Response(404, json={"error": {"message": "No such model"}})), "stream", PNG, model="m")


def test_a_busy_server_is_asked_again_for_a_stream(ask: Ask, slept: list[float]) -> None:
    full, good = Pieces(b"full"), Pieces(chunk("a"), END)
    answers = [httpx.Response(429, headers={"Retry-After": "2"}, stream=full), httpx.Response(200, stream=good)]
    assert ask(lambda _request: answers.pop(0), "stream", PNG, model="m") == ["a"] and slept == [2.0]
    assert full.closed and good.closed


def page(number: int) -> bytes:
    told = {"index": number - 1, "page_number": number, "status": "ok", "error": None, "text": f"t{number}"}
    return f"event: page\ndata: {json.dumps(told | {'confidence': 0.5})}\nid: 0-{number - 1}\n\n".encode()


PROGRESS = b'event: progress\ndata: {"id": "j", "status": "processing", "done": 0, "total": 2}\n\n'
DONE = b'event: done\ndata: {"id": "j", "status": "completed"}\nid: done\n\n'


def test_events_go_on_where_the_connection_broke(ask: Ask, slept: list[float]) -> None:
    server = Server(
        Pieces(b"retry: 1500\n\n" + PROGRESS + page(1) + b"event: pa", httpx.ReadError("gone")),
        httpx.ConnectError("starting again"),
        Pieces(),
        Pieces(page(2) + DONE + page(3)),
    )
    events = ask(server, "events", "j")
    assert [event.kind for event in events] == ["progress", "page", "page", "done"]
    assert [event.page.text for event in events if event.page] == ["t1", "t2"]
    resumed = [request.headers.get("last-event-id") for request in server.requests]
    assert resumed == [None, "0-0", "0-0", "0-0"] and slept == [1.5, 1.5, 1.5]


def test_events_of_a_server_that_never_answers(ask: Ask) -> None:
    with pytest.raises(NotReachable):
        ask(Server(httpx.ConnectError("no")), "events", "j")
    with pytest.raises(Refused):
        ask(Server(httpx.Response(404, json={"detail": "Job not found"})), "events", "j")
    with pytest.raises(BadAnswer):
        ask(Server(Pieces(b"event: page\ndata: {}\n\n")), "events", "j")


def test_a_server_that_stays_away_is_given_up(ask: Ask, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + sum(slept))
    server = Server(httpx.Response(200, json=job("processing")), httpx.ConnectError("gone"))
    with pytest.raises(NotReachable):
        ask(server, "wait", "j")
    assert PATIENCE < sum(slept) < PATIENCE + 5


def test_waiting_tells_of_progress_and_survives_a_restart(ask: Ask) -> None:
    states = [job("pending", 0, 2), job("processing", 1, 2), job("processing", 1, 2), job("completed", 2, 2)]
    answers: list[httpx.Response | Pieces | Exception] = [httpx.Response(200, json=state) for state in states]
    answers[2:2] = [httpx.ConnectError("starting again"), httpx.Response(500, text="not yet")]
    seen: list[Job] = []
    found = ask(Server(*answers), "wait", "j", on_progress=seen.append)
    assert found.state == "completed"
    assert [(one.state, one.done) for one in seen] == [("pending", 0), ("processing", 1), ("completed", 2)]


def test_waiting_has_an_end(ask: Ask, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + sum(slept))
    with pytest.raises(TimedOut, match=r"Job j .* goes on"):
        ask(Server(httpx.Response(200, json=job("processing"))), "wait", "j", timeout=7)
    assert sum(slept) == pytest.approx(7)


def taken() -> httpx.Response:
    return httpx.Response(202, json={"job_id": "j", "message": "taken"})


def test_pages_are_read_as_a_job_that_leaves_nothing(ask: Ask) -> None:
    counts = [{"page_number": 1, "metadata": {"completion_tokens": 9}}]
    ended = job("completed", 2, 2, result={"text": "t1", "metadata": {"pages": counts}})
    server = Server(taken(), httpx.Response(200, json=ended), Pieces(page(2) + page(1) + DONE), httpx.Response(204))
    found = ask(server, "pages", PNG, model="builtin", pages="1-2")
    assert [(one.number, str(one), one.tokens, one.confidence) for one in found] == [
        (1, "t1", 9, 0.5),
        (2, "t2", None, 0.5),
    ]
    methods = [(request.method, request.url.path) for request in server.requests]
    assert methods == [("POST", "/ocr"), ("GET", "/ocr/j"), ("GET", "/ocr/j/events"), ("DELETE", "/ocr/j")]


def test_pages_survive_a_server_that_is_started_again(ask: Ask) -> None:
    """Right after the job was taken, and between its end and its pages."""
    ended, gone = httpx.Response(200, json=job("completed", 2, 2)), httpx.ConnectError("starting again")
    server = Server(taken(), gone, ended, gone, Pieces(page(1) + page(2) + DONE), httpx.Response(204))
    assert [one.text for one in ask(server, "pages", PNG)] == ["t1", "t2"]
    with pytest.raises(NotReachable):
        ask(Server(gone), "pages", PNG)


def test_pages_of_a_job_that_failed_as_a_whole(ask: Ask) -> None:
    ended = httpx.Response(200, json=job("failed", 0, 2, error="No such model."))
    server = Server(taken(), ended, Pieces(DONE), httpx.Response(204))
    with pytest.raises(ServerFailed, match="No such model"):
        ask(server, "pages", PNG)
    assert server.requests[-1].method == "DELETE"


def test_pages_that_take_too_long_are_deleted(ask: Ask, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for each page: a page that is done begins it again."""
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + sum(slept))
    requests: list[httpx.Request] = []

    def server(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if request.method == "POST":
            return taken()
        return httpx.Response(200, json=job("processing", int(sum(slept) > 6), 2))

    with pytest.raises(TimedOut) as caught:
        ask(server, "pages", PNG, timeout=10)
    assert 16 < sum(slept) < 20
    assert "10 seconds" in str(caught.value) and "goes on" not in str(caught.value)
    assert requests[-1].method == "DELETE"
