"""Streams of contract 2, as the `openai` package sees them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest

from ocr_mlx.domain import (
    DocumentDone,
    DocumentStarted,
    PageDone,
    PageError,
    PageResult,
    PageStarted,
    PageStatus,
    TextDelta,
    TextRewind,
)
from ocr_mlx.errors import OutOfMemory
from ocr_mlx.server.openai import stream
from ocr_mlx.server.streams import with_pauses
from tests.wire.fakes import page, result
from tests.wire.openai_fakes import DEEPSEEK, PNG, Step, TellingService, client_of, image, messages
from tests.wire.scripted import reading


def steps(*pages: PageResult, deltas: dict[int, list[str]] | None = None) -> list[Step]:
    """A document whose pages are told one after the other."""
    told: list[Step] = [DocumentStarted(model="fake", pages=tuple(one.index for one in pages))]
    for one in pages:
        told.append(PageStarted(page=one.index))
        told += [TextDelta(page=one.index, text=text) for text in (deltas or {}).get(one.index, ())]
        told.append(PageDone(result=one))
    return [*told, DocumentDone(result=result(*pages))]


def streamed(client: openai.OpenAI, *parts: dict[str, Any], **more: Any) -> list[Any]:
    return list(client.chat.completions.create(model=DEEPSEEK, messages=messages(*parts), stream=True, **more))


def contents(chunks: list[Any]) -> list[str]:
    return [text for chunk in chunks if chunk.choices and (text := chunk.choices[0].delta.content)]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[TellingService, openai.OpenAI]]:
    service = TellingService()
    with client_of(service) as client:
        yield service, client


@pytest.fixture
def service(running: tuple[TellingService, openai.OpenAI]) -> TellingService:
    running[0].requests.clear()
    return running[0]


@pytest.fixture
def client(running: tuple[TellingService, openai.OpenAI], service: TellingService) -> openai.OpenAI:
    return running[1]


def test_the_chunks_in_their_order(client: openai.OpenAI, service: TellingService) -> None:
    done = page(0, "Some plain words.", confidence=0.5, prompt_tokens=2, generated_tokens=3)
    service.documents = [steps(done, deltas={0: ["Some pl", "ain wor", "ds."]})]
    first, *middle, last, usage = streamed(client, stream_options={"include_usage": True})
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert contents(middle) == ["Some", " plain", " words."]
    assert (last.choices[0].finish_reason, last.choices[0].delta.content, last.usage) == ("stop", None, None)
    assert last.ocr == {
        "status": "ok",
        "confidence": 0.5,
        "pages": [{"document": 0, "index": 0, "status": "ok", "confidence": 0.5}],
    }
    assert usage.choices == [] and usage.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
    }
    chunks = [first, *middle, last, usage]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert (first.object, first.model) == ("chat.completion.chunk", "fake")


def test_the_wire(client: openai.OpenAI, service: TellingService) -> None:
    service.documents = [steps(page(0, "Grüße\n\nan alle"))]
    answer = httpx.post(
        f"{client.base_url}chat/completions", json={"model": DEEPSEEK, "messages": messages(), "stream": True}
    )
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    *events, done, end = answer.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert all(event.startswith("data: {") for event in events)
    assert "Grüße\\n\\nan alle" in answer.text and "usage" not in answer.text


def test_words_that_stay_come_at_once_and_the_rest_when_the_page_is_done(
    client: openai.OpenAI, service: TellingService
) -> None:
    raw = "Plain words first. <b>Then</b> marks and more words."
    done = page(0, "Plain words first. Then marks and more words.")
    service.documents = [steps(done, deltas={0: [raw[at : at + 4] for at in range(0, len(raw), 4)]})]
    told = contents(streamed(client))
    assert "".join(told) == done.text
    assert told[-1] == " Then marks and more words." and "".join(told[:-1]) == "Plain words first."


def test_pages_that_interleave_come_in_order(client: openai.OpenAI, service: TellingService) -> None:
    pages = [page(0, "First page."), page(1, ""), page(2, "Third page here.")]
    told: list[Step] = [DocumentStarted(model="fake", pages=(0, 1, 2))]
    told += [TextDelta(page=2, text="Third page "), TextDelta(page=0, text="First page.")]
    told += [PageDone(result=pages[2]), TextDelta(page=0, text=" "), PageDone(result=pages[0])]
    told += [PageDone(result=pages[1]), DocumentDone(result=result(*pages))]
    service.documents = [told]
    assert "".join(contents(streamed(client))) == "First page.\n\nThird page here."


def test_pages_that_were_to_be_read_together_and_are_not(client: openai.OpenAI, service: TellingService) -> None:
    bad = page(0, "", PageStatus.FAILED, error=PageError(code="bad_pdf", message="Torn."))
    rest, later = page(1, "Second", following=(2, 3)), page(4, "Fifth")
    told: list[Step] = [DocumentStarted(model="fake", pages=(0, 4)), PageDone(result=bad), PageStarted(page=4)]
    told += [PageDone(result=later), PageStarted(page=1), PageDone(result=rest)]
    service.documents = [[*told, DocumentDone(result=result(bad, rest, later))]]
    chunks = streamed(client)
    assert "".join(contents(chunks)) == "Second\n\nFifth"
    assert [p["index"] for p in chunks[-1].ocr["pages"]] == [0, 1, 2, 3, 4]


def test_a_page_that_fails_alone_holds_nobody_up(client: openai.OpenAI, service: TellingService) -> None:
    bad = page(0, "", PageStatus.FAILED, error=PageError(code="bad_pdf", message="Torn."))
    seen = threading.Event()
    good = page(1, "Second")
    told: list[Step] = [DocumentStarted(model="fake", pages=(0, 1, 2)), PageDone(result=bad), PageDone(result=good)]
    told += [lambda _cancel: seen.wait(10), DocumentDone(result=result(bad, good, page(2, "Third")))]
    service.documents = [told]
    texts = []
    for chunk in client.chat.completions.create(model=DEEPSEEK, messages=messages(), stream=True):
        texts += contents([chunk])
        if texts == ["Second"]:
            seen.set()
    assert texts == ["Second", "\n\nThird"]


def test_what_a_loop_repeats_is_not_let_out(client: openai.OpenAI, service: TellingService) -> None:
    done = page(0, "over and", PageStatus.LOOP_STOPPED)
    service.documents = [steps(done, deltas={0: ["over and over and over and "]})]
    chunks = streamed(client)
    assert "".join(contents(chunks)) == "over and"
    assert chunks[-1].choices[0].finish_reason == "length" and "text" not in chunks[-1].ocr["pages"][0]


@pytest.mark.parametrize("more", [{}, {"response_format": {"type": "json_object"}}])
def test_a_loop_that_is_taken_back_and_read_again(
    client: openai.OpenAI, service: TellingService, more: dict[str, Any]
) -> None:
    done = page(0, "Once over and then on.", PageStatus.LOOP_RECOVERED)
    told: list[Step] = [DocumentStarted(model="fake", pages=(0,)), PageStarted(page=0)]
    told += [TextDelta(page=0, text=text) for text in ("Once over", " and over", " and over", " and over")]
    told += [TextRewind(page=0, length=13), TextDelta(page=0, text=" then"), TextDelta(page=0, text=" on.")]
    service.documents = [[*told, PageDone(result=done), DocumentDone(result=result(done))]]
    chunks = streamed(client, **more)
    assert "".join(contents(chunks)) == done.text
    assert chunks[-1].ocr["pages"] == [{"document": 0, "index": 0, "status": "loop_recovered", "confidence": None}]


def test_a_real_loop_leaves_the_text_of_the_plain_answer() -> None:
    body = {"model": DEEPSEEK, "messages": messages()}
    with reading(["Once " + "over and " * 200 + "on."], ["Plain."]) as (_, url):
        whole = httpx.post(f"{url}/v1/chat/completions", json=body).json()
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            chunks = streamed(client)
    assert "".join(contents(chunks)) == whole["choices"][0]["message"]["content"]
    assert chunks[-1].ocr["pages"] == whole["ocr"]["pages"]
    assert whole["ocr"]["pages"][0]["status"].startswith("loop_")


def test_words_that_are_taken_back_after_they_came_out_are_told_in_the_end(
    client: openai.OpenAI, service: TellingService
) -> None:
    done = page(0, "Plain other words.", PageStatus.LOOP_RECOVERED)
    told: list[Step] = [DocumentStarted(model="fake", pages=(0,)), TextDelta(page=0, text="Plain words and more ")]
    told += [TextRewind(page=0, length=6), TextDelta(page=0, text="other words."), PageDone(result=done)]
    service.documents = [[*told, DocumentDone(result=result(done))]]
    chunks = streamed(client)
    assert "".join(contents(chunks)) == "Plain words and"
    assert chunks[-1].ocr["pages"][0]["text"] == done.text


def test_json_comes_as_the_model_writes_it(client: openai.OpenAI, service: TellingService) -> None:
    raw = ' {"a": "<b>", "c": [1]}'
    service.documents = [
        steps(
            PageResult(index=0, status=PageStatus.OK, text="cleaned", raw_text=raw),
            deltas={0: [raw[:9], raw[9:14], raw[14:]]},
        )
    ]
    told = contents(streamed(client, response_format={"type": "json_object"}))
    assert len(told) == 3 and json.loads("".join(told)) == {"a": "<b>", "c": [1]}


def test_several_documents(client: openai.OpenAI, service: TellingService) -> None:
    service.documents = [steps(page(0, "One", prompt_tokens=1)), steps(page(0, "")), steps(page(0, "Three"))]
    chunks = streamed(client, image(), image(), image(), stream_options={"include_usage": True})
    assert "".join(contents(chunks)) == "One\n\nThree" and chunks[-1].usage.prompt_tokens == 1
    assert [p["document"] for p in chunks[-2].ocr["pages"]] == [0, 1, 2]


def test_the_packages_own_helper(client: openai.OpenAI, service: TellingService) -> None:
    service.documents = [steps(page(0, "Some plain words.", generated_tokens=3), deltas={0: ["Some plain wor"]})]
    with client.chat.completions.stream(model=DEEPSEEK, messages=messages()) as stream:
        for _event in stream:
            pass
        final = stream.get_final_completion()
    assert (final.choices[0].message.content, final.choices[0].finish_reason) == ("Some plain words.", "stop")


def failing(error: Exception) -> Step:
    def step(_cancel: threading.Event) -> None:
        raise error

    return step


def test_an_error_on_the_way_is_the_packages_error(client: openai.OpenAI, service: TellingService) -> None:
    told: list[Step] = [DocumentStarted(model="fake", pages=(0, 1)), PageDone(result=page(0, "One"))]
    service.documents = [[*told, failing(OutOfMemory("The page is too big."))]]
    texts: list[str] = []
    with pytest.raises(openai.APIError, match="too big") as caught:
        for chunk in client.chat.completions.create(model=DEEPSEEK, messages=messages(), stream=True):
            texts += contents([chunk])
    assert texts == ["One"] and caught.value.code == "out_of_memory" and caught.value.type == "server_error"


def test_a_document_that_comes_to_nothing_is_an_error(client: openai.OpenAI, service: TellingService) -> None:
    bad = page(0, "", PageStatus.FAILED, error=PageError(code="bad_image", message="It is torn."))
    service.documents = [steps(bad)]
    with pytest.raises(openai.APIError, match="torn") as caught:
        streamed(client)
    assert caught.value.type == "invalid_request_error"


def test_a_second_document_that_fails_is_named(client: openai.OpenAI, service: TellingService) -> None:
    service.documents = [steps(page(0, "One")), [failing(OutOfMemory("Too big."))]]
    with pytest.raises(openai.APIError, match=r"Document 2 of 2: Too big\."):
        streamed(client, image(), image())


def test_a_stream_begins_although_the_model_is_still_on_its_way(
    client: openai.OpenAI, service: TellingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 0.01)
    monkeypatch.setattr(stream, "PAUSE", 0.01)
    here = threading.Event()
    service.documents = [[lambda _cancel: here.wait(10), *steps(page(0, "Hello"))]] * 2
    body = {"model": DEEPSEEK, "messages": messages(), "stream": True}
    with httpx.stream("POST", f"{client.base_url}chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["model"] == DEEPSEEK
        assert [next(lines), next(lines)] == ["", ": ping"]
        here.set()
        told = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [(chunk["model"], chunk["choices"][0]["delta"].get("content")) for chunk in told] == [
        ("fake", "Hello"),
        ("fake", None),
    ]
    content: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}]
    with client.responses.stream(model=DEEPSEEK, input=content) as events:
        final = events.get_final_response()
    assert (final.output_text, final.model) == ("Hello", "fake")


def test_what_fails_after_that_is_an_error_of_the_stream(
    client: openai.OpenAI, service: TellingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 0.01)
    late = threading.Event()
    service.documents = [[lambda _cancel: late.wait(10), failing(OutOfMemory("The model is too big."))]]
    with client.chat.completions.create(model=DEEPSEEK, messages=messages(), stream=True) as chunks:
        assert next(chunks).choices[0].delta.role == "assistant"
        late.set()
        with pytest.raises(openai.APIError, match="too big") as caught:
            list(chunks)
    assert caught.value.code == "out_of_memory"


@pytest.mark.parametrize("spoke", [False, True])
def test_a_client_that_leaves_stops_the_work(client: openai.OpenAI, service: TellingService, spoke: bool) -> None:
    cancelled = threading.Event()

    def wait(cancel: threading.Event) -> None:
        if cancel.wait(10):
            cancelled.set()

    one = page(0, "One", PageStatus.CANCELLED)
    told: list[Step] = [TextDelta(page=0, text="One two ")] if spoke else []
    service.documents = [[DocumentStarted(model="fake", pages=(0,)), *told, wait, DocumentDone(result=result(one))]]
    with client.chat.completions.create(model=DEEPSEEK, messages=messages(), stream=True) as chunks:
        next(iter(chunks))
    assert cancelled.wait(10)


def test_the_asynchronous_client(client: openai.OpenAI, service: TellingService) -> None:
    async def go() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=str(client.base_url), api_key="any", max_retries=0) as other:
            stream = await other.chat.completions.create(model=DEEPSEEK, messages=messages(), stream=True)
            return [chunk async for chunk in stream]

    service.documents = [steps(page(0, "Hello"))]
    assert contents(asyncio.run(go())) == ["Hello"]


def test_silence_is_filled_with_comments() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.sleep(0.05)
        yield b"two"

    async def go() -> list[bytes]:
        return [event async for event in with_pauses(slow(), seconds=0.01)]

    told = asyncio.run(go())
    assert (told[0], told[-1]) == (b"one", b"two") and set(told[1:-1]) == {b": ping\n\n"}


def test_who_stops_listening_in_the_silence_ends_what_was_waited_for() -> None:
    async def go() -> bool:
        ended = asyncio.Event()

        async def silent() -> AsyncIterator[bytes]:
            try:
                await asyncio.sleep(10)
                yield b"never"
            finally:
                ended.set()

        events = with_pauses(silent(), seconds=0.01)
        assert await anext(events) == b": ping\n\n"
        await events.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(ended.wait(), 5)
        return True

    assert asyncio.run(go())
