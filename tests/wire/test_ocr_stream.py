"""`POST /ocr` as a stream: server-sent events and lines of JSON, over a real socket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ocr_mlx.client.sse import Parser
from ocr_mlx.domain import (
    DocumentDone,
    DocumentStarted,
    ModelProgress,
    Page,
    PageDone,
    PageError,
    PageStarted,
    PageStatus,
    Prompt,
    TextDelta,
    TextRewind,
)
from ocr_mlx.errors import Cancelled, OutOfMemory, QueueFull, UnknownModel
from ocr_mlx.model.base import Mode, PreparedPage
from ocr_mlx.server.ocr import stream
from ocr_mlx.server.ocr.events import NAMES
from tests.wire.fakes import FakeService, page, result, serving
from tests.wire.openai_fakes import Step, TellingService
from tests.wire.scripted import Scripted, reading

SSE, NDJSON = "text/event-stream", "application/x-ndjson"
BODY = {"filename": "data:image/png;base64,eA=="}
WAIT = 10.0
BOTH = pytest.mark.parametrize("kind", [SSE, NDJSON])
ODD = "Grüße — 漢字 😀 e\u0301 \u202eمرحبا"

Record = dict[str, Any]


def records(answer: httpx.Response) -> Iterator[Record]:
    """The events as they arrive."""
    if answer.headers["content-type"].startswith(SSE):
        parser = Parser()
        for piece in answer.iter_raw():
            for message in parser.feed(piece):
                record = json.loads(message.data)
                assert record["event"] == message.event
                yield record
    else:
        assert answer.headers["content-type"] == NDJSON
        for line in answer.iter_lines():
            yield json.loads(line)


def read(url: str, kind: str = SSE, **more: Any) -> list[Record]:
    with httpx.stream("POST", f"{url}/ocr", json=BODY | more, headers={"Accept": kind}, timeout=WAIT) as answer:
        assert answer.status_code == 200, answer.read()
        return list(records(answer))


def texts(told: list[Record]) -> dict[int, str]:
    """What the pieces come to."""
    found: dict[int, str] = {}
    for record in told:
        if record["event"] == "text":
            found[record["page"]] = found.get(record["page"], "") + record["delta"]
        if record["event"] == "rewind":
            assert record["length"] <= len(found[record["page"]])
            found[record["page"]] = found[record["page"]][: record["length"]]
    return found


def names(told: list[Record]) -> list[str]:
    return [record["event"] for record in told]


@BOTH
def test_a_document_from_its_start_to_its_end(kind: str) -> None:
    with reading(["One page."], ["Another ", "in rows."]) as (_, url):
        told = read(url, kind)
    assert (told[0]["event"], told[0]["stage"]) == ("model_progress", "ready")
    assert told[1] == {"event": "document_started", "model": "fake", "pages": [0, 1]}
    assert set(names(told)) <= set(NAMES) and names(told).count("page_started") == 2
    done = {record["page"]: record for record in told if record["event"] == "page_done"}
    assert done[0] | {"seconds": 0, "confidence": 1, "decode_steps": 9} == {
        "event": "page_done",
        "page": 0,
        "index": 0,
        "status": "ok",
        "text": "One page.",
        "raw_text": "One page.",
        "confidence": 1,
        "tokens": {"prompt": 1, "generated": 9},
        "finish": "eos",
        "effective_size": [1, 1],
        "seconds": 0,
        "decode_steps": 9,
        "drafts": {"proposed": 0, "accepted": 0},
        "cached": False,
        "error": None,
    }
    assert texts(told) == {0: "One page.", 1: "Another \nin rows."} == {at: one["raw_text"] for at, one in done.items()}
    assert sum(record["tokens"] for record in told if record["event"] == "text") == 9 + 16
    end = told[-1] | {"seconds": 0}
    assert end == {
        "event": "document_done",
        "model": "fake",
        "statuses": ["ok", "ok"],
        "usage": {"prompt_tokens": 3, "completion_tokens": 25, "total_tokens": 28},
        "seconds": 0,
    }


@BOTH
def test_pieces_are_whole_characters(kind: str) -> None:
    """The fake family's tokens are bytes; each answer is decoded strictly."""
    with (
        reading([ODD], [ODD, ODD]) as (_, url),
        httpx.stream("POST", f"{url}/ocr", json=BODY, headers={"Accept": kind}) as answer,
    ):
        body = b"".join(answer.iter_raw()).decode("utf-8", "strict")
    told = [json.loads(line[line.index("{") :]) for line in body.splitlines() if "{" in line]
    pieces = [record["delta"] for record in told if record["event"] == "text"]
    assert texts(told) == {0: ODD, 1: f"{ODD}\n{ODD}"}
    assert len(pieces) > 40 and all(piece and "\ufffd" not in piece for piece in pieces)


def test_the_head_keeps_proxies_from_holding_it_back() -> None:
    with reading(["x"]) as (_, url):
        for kind, full in ((SSE, "text/event-stream; charset=utf-8"), (NDJSON, NDJSON)):
            head = httpx.post(f"{url}/ocr", json=BODY, headers={"Accept": kind}).headers
            assert (head["content-type"], head["cache-control"], head["x-accel-buffering"]) == (full, "no-store", "no")
            assert head["x-request-id"] and "content-length" not in head


def test_without_that_accept_nothing_changes() -> None:
    with reading(["One."], ["Two."]) as (_, url):
        for accept in ("*/*", "text/plain", "text/*, application/json;q=0.1", "text/event-stream;q=0, text/plain"):
            answer = httpx.post(f"{url}/ocr", json=BODY, headers={"Accept": accept})
            assert (answer.content, answer.headers["content-type"]) == (b"One.\n\nTwo.", "text/plain; charset=utf-8")
            assert answer.headers["x-ocr-mlx-status"] == "ok,ok" and "cache-control" not in answer.headers


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", None),
        ("*/*", None),
        ("application/json, text/event-stream", SSE),
        ("TEXT/Event-Stream; charset=utf-8", SSE),
        ("text/plain;q=0.5, application/x-ndjson;q=0.9, text/event-stream;q=0.8", NDJSON),
        ("text/event-stream;q=0.1,text/plain", None),
        ("text/event-stream;q=none", None),
        ("text/event-stream, application/x-ndjson", SSE),
    ],
)
def test_what_an_accept_header_asks_for(accept: str, kind: str | None) -> None:
    assert stream.wanted(accept) == kind


@BOTH
def test_the_first_page_is_out_before_the_second_is_decoded(kind: str) -> None:
    with reading(["first page"], ["second page"], max_rows=1) as (engine, url):
        prefill, out, other = engine.graph.prefill, threading.Event(), threading.Event()
        prepare = engine.model.processor.prepare

        def in_the_wrong_order(page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
            if page.index == 0:
                assert other.wait(WAIT)
                time.sleep(0.05)
                return prepare(page, prompt, mode)
            prepared = prepare(page, prompt, mode)
            other.set()
            return prepared

        def late(inputs: Any) -> Any:
            assert not engine.graph.prefills or out.wait(WAIT), "the first page's text never came"
            return prefill(inputs)

        engine.graph.prefill = late  # type: ignore[method-assign]
        engine.model.processor.prepare = in_the_wrong_order  # type: ignore[method-assign]
        told = []
        with httpx.stream("POST", f"{url}/ocr", json=BODY, headers={"Accept": kind}, timeout=WAIT) as answer:
            for record in records(answer):
                told.append(record)
                if texts(told) == {0: "first page"}:
                    out.set()
    assert texts(told) == {0: "first page", 1: "second page"}
    assert told[-1]["statuses"] == ["ok", "ok"]


def until(condition: Any) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@BOTH
def test_a_client_that_leaves_ends_decoding_within_a_step(kind: str) -> None:
    with reading(["a long page " * 20], ["another " * 20]) as (engine, url):
        engine.gate.close(after=12)
        with httpx.stream("POST", f"{url}/ocr", json=BODY, headers={"Accept": kind}, timeout=WAIT) as answer:
            told = records(answer)
            assert next(record for record in told if record["event"] == "text")
            until(lambda: engine.gate.waiting)
        [cancel] = engine.cancels
        assert cancel.wait(WAIT)
        before = len(engine.graph.widths)
        engine.gate.open()
        until(lambda: not [model for model in engine.cache.snapshot() if model.leases])
        assert len(engine.graph.widths) <= before + 1
        assert texts(read(url, kind)).keys() == {0, 1}


def test_a_client_that_leaves_before_the_answer_begins_ends_the_work() -> None:
    cancelled = threading.Event()

    def wait(cancel: threading.Event) -> None:
        if cancel.wait(WAIT):
            cancelled.set()
        raise Cancelled("Gone.")

    with serving(telling(wait)) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/ocr", json=BODY, headers={"Accept": SSE}, timeout=0.3)
        assert cancelled.wait(WAIT)


def telling(*steps: Step) -> TellingService:
    return TellingService(documents=[list(steps)])


STARTED = DocumentStarted(model="fake", pages=(0,))


@BOTH
def test_what_is_taken_back_is_told(kind: str) -> None:
    done = page(0, "so on", PageStatus.LOOP_RECOVERED)
    told: list[Step] = [
        STARTED,
        PageStarted(page=0),
        TextDelta(page=0, text="so so so so so "),
        TextRewind(page=0, length=3),
    ]
    told += [TextDelta(page=0, text="on"), PageDone(result=done), DocumentDone(result=result(done))]
    with serving(telling(*told)) as url:
        answer = read(url, kind)
    assert names(answer)[2:6] == ["text", "rewind", "text", "page_done"] and texts(answer) == {0: "so on"}


@BOTH
def test_a_real_loop_is_taken_back_and_the_pieces_are_the_raw_text(kind: str) -> None:
    with reading(["Once " + "over and " * 200 + "on."], ["Plain."]) as (_, url):
        told = read(url, kind)
        plain = httpx.post(f"{url}/ocr", json=BODY).text
    done = {record["page"]: record for record in told if record["event"] == "page_done"}
    assert done[0]["status"].startswith("loop_") and done[1]["status"] == "ok"
    assert {record["page"] for record in told if record["event"] == "rewind"} == {0}
    assert texts(told) == {page: record["raw_text"] for page, record in done.items()}
    assert plain == f"{done[0]['text']}\n\n{done[1]['text']}"


@pytest.mark.parametrize(
    ("said", "raw", "between"),
    [
        ([], "from an earlier run", ["text"]),
        (["so so so "], "so", ["text", "rewind"]),
        (["abc", "def"], "abX", ["text", "text", "rewind", "text"]),
        (["gone"], "", ["text", "rewind"]),
        (["whole"], "whole", ["text"]),
    ],
)
def test_the_pieces_are_the_raw_text_whatever_happened(said: list[str], raw: str, between: list[str]) -> None:
    done = page(0, raw)
    steps: list[Step] = [STARTED, *(TextDelta(page=0, text=text) for text in said), PageDone(result=done)]
    with serving(telling(*steps, DocumentDone(result=result(done)))) as url:
        told = read(url)
    assert names(told) == ["document_started", *between, "page_done", "document_done"]
    assert texts(told).get(0, "") == raw


@pytest.mark.parametrize(
    ("error", "status"), [(UnknownModel("There is no model 'x'."), 404), (QueueFull("Full."), 429)]
)
def test_before_the_first_page_errors_are_statuses(error: Exception, status: int) -> None:
    def behave(_request: Any, _cancel: threading.Event) -> Any:
        raise error

    with serving(FakeService(behave=behave)) as url:
        plain = httpx.post(f"{url}/ocr", json=BODY)
        answer = httpx.post(f"{url}/ocr", json=BODY, headers={"Accept": SSE})
    assert (answer.status_code, answer.text) == (plain.status_code, plain.text) == (status, str(error))
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers.get("retry-after") == plain.headers.get("retry-after")


def test_a_source_that_is_none_and_a_wrong_field_are_statuses() -> None:
    with serving(FakeService()) as url:
        head = {"Accept": NDJSON}
        assert httpx.post(f"{url}/ocr", json={"filename": "nothing"}, headers=head).status_code == 400
        assert httpx.post(f"{url}/ocr", json=BODY | {"temperature": 7}, headers=head).status_code == 422


def failing(error: Exception) -> Step:
    def step(_cancel: threading.Event) -> None:
        raise error

    return step


@BOTH
def test_on_the_way_an_error_is_the_last_event(kind: str) -> None:
    done = page(0, "One")
    with serving(telling(STARTED, PageDone(result=done), failing(OutOfMemory("Too big.", hint="Smaller.")))) as url:
        *_, before, last = read(url, kind)
    assert before["event"] == "page_done"
    assert last == {"event": "error", "code": "out_of_memory", "message": "Too big. Smaller.", "status": 503}


def test_what_nobody_expected_is_told_without_its_words() -> None:
    with serving(telling(STARTED, PageDone(result=page()), failing(RuntimeError("/home/secret")))) as url:
        told = []
        with (
            pytest.raises(httpx.RemoteProtocolError),
            httpx.stream("POST", f"{url}/ocr", json=BODY, headers={"Accept": NDJSON}) as answer,
        ):
            for record in records(answer):
                told.append(record)
    assert (told[-1]["event"], told[-1]["status"]) == ("error", 500) and "secret" not in str(told)


def test_pages_that_came_to_nothing_are_an_error_after_the_end() -> None:
    bad = page(0, "", PageStatus.FAILED, error=PageError(code="bad_pdf", message="Torn."))
    with serving(telling(STARTED, PageDone(result=bad), DocumentDone(result=result(bad)))) as url:
        *_, end, last = read(url)
    assert (end["event"], end["statuses"]) == ("document_done", ["failed"])
    assert last == {"event": "error", "code": "bad_pdf", "message": "Torn.", "status": 422}


def test_a_long_download_is_told_and_ends_in_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 0.01)
    began = threading.Event()
    fetching = ModelProgress(model="big", stage="downloading", licence="MIT")
    some = ModelProgress(model="big", stage="downloading", done=5, total=10)
    steps: list[Step] = [fetching, some, lambda _cancel: began.wait(WAIT), failing(UnknownModel("Gone."))]
    with (
        serving(telling(*steps)) as url,
        httpx.stream("POST", f"{url}/ocr", json=BODY, headers={"Accept": SSE}, timeout=WAIT) as answer,
    ):
        assert answer.status_code == 200
        told = records(answer)
        told_first = {"event": "model_progress", "model": "big", "stage": "downloading", "done": 0, "total": 0}
        assert next(told) == told_first | {"licence": "MIT"}
        assert next(told) == told_first | {"done": 5, "total": 10}
        began.set()
        assert next(told) == {"event": "error", "code": "unknown_model", "message": "Gone.", "status": 404}
        assert list(told) == []


def test_what_a_short_load_tells_comes_first() -> None:
    steps: list[Step] = [ModelProgress(model="m", stage="loading"), ModelProgress(model="m", stage="ready"), STARTED]
    done = page()
    with serving(telling(*steps, PageDone(result=done), DocumentDone(result=result(done)))) as url:
        told = read(url)
    assert names(told) == ["model_progress", "model_progress", "document_started", "text", "page_done", "document_done"]


def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PAUSE", 0.02)
    done, heard = page(), threading.Event()
    steps: list[Step] = [STARTED, PageStarted(page=0), lambda _cancel: heard.wait(WAIT), PageDone(result=done)]
    with (
        serving(telling(*steps, DocumentDone(result=result(done)))) as url,
        httpx.stream("POST", f"{url}/ocr", json=BODY, headers={"Accept": SSE}, timeout=WAIT) as answer,
    ):
        body = b""
        for piece in answer.iter_raw():
            body += piece
            if b": ping\n\n" in body:
                heard.set()
    assert body.endswith(b"}\n\n") and b"document_done" in body


def test_the_servers_end_ends_the_stream_with_the_reason() -> None:
    with reading(["a long page " * 20]) as (engine, url):
        engine.gate.close(after=5)
        with httpx.stream("POST", f"{url}/ocr", json=BODY, headers={"Accept": NDJSON}, timeout=WAIT) as answer:
            told = records(answer)
            assert next(record for record in told if record["event"] == "text")
            threading.Thread(target=lambda: httpx.post(f"{url}/shutdown", json={})).start()
            assert engine.cancels[0].wait(WAIT)
            engine.gate.open()
            *_, last = told
    assert (last["event"], last["code"], last["status"]) == ("error", "shutting_down", 503)


def test_what_the_engine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    service = FakeService()
    with serving(service) as url:
        read(url, timeout=2.5, fresh=True)
        httpx.post(f"{url}/ocr", json=BODY)
        for wrong in ({"timeout": 0}, {"timeout": -1}, {"timeout": "soon"}, {"fresh": "perhaps"}):
            assert httpx.post(f"{url}/ocr", json=BODY | wrong).status_code == 422
    first, second = service.requests
    assert (first.timeout, first.fresh) == (2.5, True) and (second.timeout, second.fresh) == (None, False)


def test_many_streams_do_not_mix() -> None:
    with reading(["One page."], ["Another."]) as (_, url):
        found: list[dict[int, str]] = []
        threads = [threading.Thread(target=lambda: found.append(texts(read(url)))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    assert found == [{0: "One page.", 1: "Another."}] * 6


def test_the_engine_of_these_tests_is_what_a_server_wants() -> None:
    engine = Scripted([["x"]], 1)
    assert engine.inspect is not None and engine.board.get("fake") is None
    engine.close()
