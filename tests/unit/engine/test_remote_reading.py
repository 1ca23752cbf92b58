"""Documents that an engine elsewhere reads: a fake engine on a real socket."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image, ImageDraw

from ocr_mlx.domain import (
    ANY_JSON_OBJECT,
    DecodeOverrides,
    DocumentStarted,
    Event,
    Finish,
    OcrRequest,
    Page,
    PageDone,
    PageResult,
    PageStarted,
    PageStatus,
    Prompt,
    TextDelta,
    Upload,
)
from ocr_mlx.engine.remote import RemoteOptions, reference
from ocr_mlx.engine.remote_client import RemoteClient
from ocr_mlx.engine.remote_form import TRANSCRIBE
from ocr_mlx.engine.remote_reading import MOST_SIDE, RemoteEngines, RemoteReading
from ocr_mlx.engine.stop import Stop
from ocr_mlx.errors import BadPdf, InvalidOption
from tests.unit.engine.fake_engine import (
    WAIT,
    Answer,
    FakeEngine,
    Handler,
    completes,
    delta,
    engine,
    refuses,
    says,
    streams,
    usage,
)

LIGHTON = "lightonai/LightOnOCR-2-1B"


def picture(size: tuple[int, int] = (200, 100), ink: bool = True) -> Image.Image:
    image = Image.new("RGB", size, "white")
    if ink:
        ImageDraw.Draw(image).rectangle((10, 10, size[0] // 2, size[1] // 2), fill="black")
    return image


@dataclass
class FakeDocument:
    images: Mapping[int, Image.Image | Exception]
    asked: list[tuple[float, int]] = field(default_factory=list)

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(self.images)

    def page(self, index: int, *, dpi: float, padding: int = 0) -> Page:
        self.asked.append((dpi, padding))
        image = self.images[index]
        if isinstance(image, Exception):
            raise image
        return Page(index=index, image=image, width=image.width, height=image.height, dpi=dpi, origin="pdf")

    def close(self) -> None:
        pass


def pages(count: int) -> FakeDocument:
    return FakeDocument(dict.fromkeys(range(count), picture()))


@dataclass
class Reader:
    """Reads with a fake engine as the service would, and keeps the events."""

    options: RemoteOptions
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2))
    events: list[Event] = field(default_factory=list)
    cancel: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        self.engines = RemoteEngines(self.options, connect=lambda options: RemoteClient(options, first_wait=0.01))

    def read(
        self, fake: FakeEngine, document: FakeDocument | None = None, *, model: str = LIGHTON, **asked: Any
    ) -> tuple[PageResult, ...]:
        request = OcrRequest(source=Upload(data=b""), **asked)
        remote = self.engines.find(reference(fake.url, model))
        reading = RemoteReading(
            self.engines, remote, self.threads, document or pages(1), request, self.events.append, self.cancel
        )
        return reading.run()

    def close(self) -> None:
        self.engines.close()
        self.threads.shutdown()

    def texts(self, page: int = 0) -> list[str]:
        return [event.text for event in self.events if isinstance(event, TextDelta) and event.page == page]


@contextmanager
def reader(**options: Any) -> Iterator[Reader]:
    made = Reader(RemoteOptions(**{"hosts": None, "timeout": WAIT, **options}))
    try:
        yield made
    finally:
        made.close()


def read(*answers: Answer, document: FakeDocument | None = None, **more: Any) -> tuple[PageResult, FakeEngine]:
    with engine(*answers) as fake, reader() as one:
        (result,) = one.read(fake, document, **more)
        return result, fake


def test_a_stream_becomes_events_and_a_result() -> None:
    with engine(streams("Grüße", "\u2028\x85 wörld", then=[usage(1200, 9)])) as fake, reader() as one:
        (result,) = one.read(fake)
    assert one.texts() == ["Grüße", "\u2028\x85 wörld"]
    assert [type(event) for event in one.events[:2]] == [DocumentStarted, PageStarted]
    assert one.events[0] == DocumentStarted(model=LIGHTON, pages=(0,))
    assert one.events[-1] == PageDone(result=result)
    assert result.raw_text == "Grüße\u2028\x85 wörld"
    assert (result.status, result.finish) == (PageStatus.OK, Finish.EOS)
    assert (result.prompt_tokens, result.generated_tokens) == (1200, 9)
    assert result.effective_size == (200, 100)
    assert result.confidence is None


def test_what_a_model_of_a_known_family_is_asked() -> None:
    _result, fake = read(streams("x"))
    path, headers, body = fake.requests[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    (message,) = body.pop("messages")
    (part,) = message["content"]
    sent = Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))))
    assert (sent.size, sent.tobytes()) == ((200, 100), picture().tobytes())
    assert body == {
        "model": LIGHTON,
        "max_tokens": 4096,
        "temperature": 0.2,
        "top_p": 0.9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def asked(**more: Any) -> tuple[list[str], dict[str, Any]]:
    """The words that went with the picture, and the options."""
    _result, fake = read(streams("x"), **more)
    body = fake.requests[0][2]
    (*_system, message) = body["messages"]
    return [part["text"] for part in message["content"] if part["type"] == "text"], body


def test_deepseek_is_asked_its_modes_prompt_without_the_pictures_place() -> None:
    words, body = asked(model="deepseek-ai/DeepSeek-OCR")
    assert words == ["<|grounding|>Convert the document to markdown."]
    assert body["max_tokens"] == 8192
    assert "top_p" not in body
    assert body["skip_special_tokens"] is False
    assert body["vllm_xargs"] == {"ngram_size": 30, "window_size": 90, "whitelist_token_ids": [128821, 128822]}
    words, _ = asked(model="deepseek-ai/DeepSeek-OCR", prompt=Prompt(mode="free"))
    assert words == ["Free OCR."]


def test_deepseeks_boxes_become_blocks() -> None:
    said = "<|ref|>title<|/ref|><|det|>[[0, 0, 999, 500]]<|/det|>\n# Head\n<｜end▁of▁sentence｜>"
    result, _ = read(streams(said), model="deepseek-ai/DeepSeek-OCR")
    assert result.text == "# Head"
    assert result.raw_text == said
    assert result.blocks[0].label == "title"
    assert result.blocks[0].box[2] == pytest.approx(200, rel=0.01)


def test_a_model_that_nobody_knows_is_told_what_to_do() -> None:
    words, body = asked(model="smolvlm-500m-instruct@8bit")
    assert words == [TRANSCRIBE]
    assert (body["temperature"], body["max_tokens"]) == (0.0, 4096)
    words, body = asked(model="x/y", prompt=Prompt(text="Read\ud800.", system="Be brief."))
    assert words == ["Read\ud800."]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_options_go_along_only_where_they_mean_something() -> None:
    _, body = asked(
        overrides=DecodeOverrides(
            max_new_tokens=50, temperature=0.5, top_p=0.0, stop=("END",), seed=3, top_k=4, repetition_penalty=1.0
        )
    )
    kept = {name: body[name] for name in body if name not in ("model", "messages", "stream", "stream_options")}
    assert kept == {"max_tokens": 50, "temperature": 0.5, "stop": ["END"], "seed": 3, "top_k": 4}


def test_a_schema_goes_along_and_json_stays_as_it_is() -> None:
    _, body = asked(overrides=DecodeOverrides(json_schema=ANY_JSON_OBJECT))
    assert body["response_format"] == {"type": "json_object"}
    result, fake = read(streams(' {"a": "$1"} '), overrides=DecodeOverrides(json_schema='{"type": "object"}'))
    given = fake.requests[0][2]["response_format"]
    assert (given["type"], given["json_schema"]["schema"]) == ("json_schema", {"type": "object"})
    assert result.text == '{"a": "$1"}'


@pytest.mark.parametrize(
    ("model", "prompt", "overrides"),
    [
        (LIGHTON, Prompt(mode="gundam"), DecodeOverrides()),
        ("x/y", Prompt(mode="markdown"), DecodeOverrides()),
        ("qari", Prompt(mode="pages"), DecodeOverrides()),
        (LIGHTON, Prompt(), DecodeOverrides(ngram_window=9)),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(model: str, prompt: Prompt, overrides: DecodeOverrides) -> None:
    with engine() as fake, reader() as one:
        with pytest.raises(InvalidOption):
            one.read(fake, model=model, prompt=prompt, overrides=overrides)
    assert fake.requests == []


def test_pdf_pages_are_rendered_at_200_dpi_unless_asked_and_long_ones_are_bounded() -> None:
    document = FakeDocument({0: picture((4000, 3000))})
    result, _ = read(streams("x"), document=document)
    assert document.asked == [(200.0, 0)]
    assert result.effective_size == (MOST_SIDE, MOST_SIDE * 3 // 4)
    read(streams("x"), document=document, dpi=96.0, padding=5)
    assert document.asked[1] == (96.0, 5)


def test_blank_pages_are_not_sent() -> None:
    result, fake = read(document=FakeDocument({0: picture(ink=False)}))
    assert (result.status, result.text, fake.requests) == (PageStatus.BLANK, "", [])


@pytest.mark.parametrize(
    ("finish", "status", "end"),
    [
        ("stop", PageStatus.OK, Finish.EOS),
        ("length", PageStatus.TRUNCATED, Finish.LENGTH),
        ("content_filter", PageStatus.FAILED, Finish.ERROR),
        ("tool_calls", PageStatus.FAILED, Finish.ERROR),
        (None, PageStatus.FAILED, Finish.ERROR),
    ],
)
@pytest.mark.parametrize("form", [streams, completes])
def test_the_end_is_told_as_it_was(form: Any, finish: str | None, status: PageStatus, end: Finish) -> None:
    result, _ = read(form("text", finish=finish))
    assert (result.status, result.finish) == (status, end)
    assert result.raw_text == "text"
    assert result.text == ("" if status is PageStatus.FAILED else "text")
    if status is PageStatus.FAILED:
        assert result.error is not None
        assert (finish or "did not say why") in result.error.message


@pytest.mark.parametrize(("word", "status"), [("eos_token", PageStatus.OK), ("max_tokens", PageStatus.TRUNCATED)])
def test_other_engines_words_for_the_same_ends(word: str, status: PageStatus) -> None:
    assert read(streams("text", finish=word))[0].status is status


def test_an_empty_reason_is_none_yet() -> None:
    def answer(handler: Handler, _body: Mapping[str, Any]) -> None:
        handler.begin()
        handler.say(delta("one ", finish=""))
        handler.say(delta("two", finish="length"))

    result, _ = read(answer)
    assert (result.status, result.text) == (PageStatus.TRUNCATED, "one two")


@pytest.mark.parametrize("kind", ["message", "delta"])
def test_a_model_that_refuses_has_not_read_a_blank_page(kind: str) -> None:
    said = {"choices": [{kind: {"content": None, "refusal": "I cannot help with that."}, "finish_reason": "stop"}]}

    def answer(handler: Handler, _body: Mapping[str, Any]) -> None:
        if kind == "message":
            return handler.whole(200, said)
        handler.begin()
        handler.say(said)

    result, _ = read(answer)
    assert result.error is not None and "refuses" in result.error.message
    assert result.status is PageStatus.FAILED and "cannot help" not in result.error.message


def test_halves_of_characters_are_no_text() -> None:
    result, _ = read(
        says(b'{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}', "text/json")
    )
    assert result.text == "a?b"


def test_no_text_at_all_is_a_blank_page() -> None:
    assert read(streams())[0].status is PageStatus.BLANK


def test_probabilities_become_confidence_where_they_are_given() -> None:
    event = delta("a")
    event["choices"][0]["logprobs"] = {"content": [{"logprob": 0.0}, {"logprob": -100.0}, {"logprob": None}]}

    def answer(handler: Handler, _body: Mapping[str, Any]) -> None:
        handler.begin()
        handler.say(event)
        handler.say(delta("", "stop"))

    assert read(answer)[0].confidence == pytest.approx(0.5)


def test_an_engine_that_does_not_stream() -> None:
    with engine(completes("whole")) as fake, reader() as one:
        (result,) = one.read(fake)
    assert (result.text, one.texts(), result.prompt_tokens, result.generated_tokens) == ("whole", ["whole"], 7, 3)


def test_an_engine_that_knows_less_is_asked_for_less_and_remembered() -> None:
    def picky(handler: Handler, body: Mapping[str, Any]) -> None:
        if "stream" in body:
            return handler.whole(400, {"error": {"message": "unknown field"}})
        completes("plain")(handler, body)

    with engine() as fake, reader() as one:
        fake.otherwise = picky
        assert one.read(fake)[0].text == "plain"
        asked = [("stream" in r[2], "stream_options" in r[2]) for r in fake.requests]
        assert list(dict.fromkeys(asked)) == [
            (True, True),
            (True, False),
            (False, False),
        ]  # a broken connection begins anew
        assert one.read(fake)[0].text == "plain"
        assert all("stream" not in body for _, _, body in fake.requests[len(asked) :])


def test_an_engine_that_takes_no_extras_is_asked_without_them_and_remembered() -> None:
    def strict(handler: Handler, body: Mapping[str, Any]) -> None:
        if "vllm_xargs" in body:
            return handler.whole(422, {"detail": "Unexpected fields in the request"})
        streams("taken")(handler, body)

    with engine() as fake, reader() as one:
        fake.otherwise = strict
        assert one.read(fake, model="deepseek")[0].text == "taken"
        asked = [("vllm_xargs" in body, "stream_options" in body) for _, _, body in fake.requests]
        assert list(dict.fromkeys(asked)) == [(True, True), (False, True)]
        assert one.read(fake, model="deepseek")[0].text == "taken"
        assert all("vllm_xargs" not in body for _, _, body in fake.requests[len(asked) :])


def test_a_refusal_for_another_reason_is_told_in_the_engines_words() -> None:
    with engine() as fake, reader() as one:
        fake.otherwise = refuses(400, "The model `nope` does not exist.")
        (result,) = one.read(fake)
    assert result.error is not None
    assert "400: The model `nope` does not exist." in result.error.message


def test_busy_engines_are_asked_again_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answers = (refuses(429, "SECRET"), refuses(503, Retry_After="0.05"), reset_after(), streams("at last"))
    result, fake = read(*answers)
    assert (result.text, len(fake.requests)) == ("at last", 4)
    told = [message for message in caplog.messages if "remote engine" in message]
    assert [message[-10:] for message in told[:2]] == ["status 429", "status 503"]
    assert "broke" in told[2] and "attempt 4 follows" in caplog.text
    assert "SECRET" not in caplog.text and fake.host not in caplog.text


def test_an_engine_says_how_long_to_wait() -> None:
    started = time.monotonic()
    read(refuses(503, Retry_After="0.4"), streams("x"))
    assert time.monotonic() - started >= 0.4


def test_an_engine_that_stays_busy_fails_the_page() -> None:
    with engine() as fake, reader() as one:
        fake.otherwise = refuses(503, "overloaded", Retry_After="0")
        (result,) = one.read(fake)
    assert result.error is not None
    assert (result.error.code, len(fake.requests)) == ("remote_failed", 8)
    assert "503: overloaded" in result.error.message


def test_nobody_there() -> None:
    with engine() as fake:
        pass
    with reader() as one:
        (result,) = one.read(fake)
    assert result.error is not None
    assert "could not be reached" in result.error.message


def reset_after(*pieces: str) -> Answer:
    def answer(handler: Handler, _body: Mapping[str, Any]) -> None:
        handler.begin()
        for piece in pieces:
            handler.say(delta(piece))
        time.sleep(0.05)
        handler.reset()

    return answer


def test_an_engine_that_wants_more_time_than_a_page_has_is_not_waited_for() -> None:
    with engine() as fake, reader(timeout=5) as one:
        fake.otherwise = refuses(429, "quota", Retry_After="3600")
        began = time.monotonic()
        (result,) = one.read(fake)
        assert time.monotonic() - began < 4
    assert len(fake.requests) == 1 and result.error is not None
    assert (result.error.code, result.status) == ("remote_failed", PageStatus.FAILED)
    assert "429: quota. It wants to be asked again in 3600 seconds." in result.error.message


def test_a_stream_that_ends_before_any_text_is_tried_again() -> None:
    role = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
    result, fake = read(says(b""), says(role), streams("third"))
    assert (result.text, len(fake.requests)) == ("third", 3)


def test_a_stream_that_ends_in_the_text_is_told_as_cut_off() -> None:
    result, fake = read(says(b'data: {"choices": [{"delta": {"content": "half a"}}]}\n\n'), streams("second"))
    assert (result.status, result.text, result.raw_text) == (PageStatus.FAILED, "", "half a")
    assert result.error is not None and "cut off" in result.error.message
    assert len(fake.requests) == 1


def test_a_connection_that_breaks_before_any_text_is_tried_again() -> None:
    result, fake = read(reset_after(), streams("second"))
    assert (result.text, len(fake.requests)) == ("second", 2)


def test_a_connection_that_breaks_in_the_text_is_not() -> None:
    result, fake = read(reset_after("half a"), streams("second"))
    assert (result.status, result.text, result.raw_text) == (PageStatus.FAILED, "", "half a")
    assert result.error is not None
    assert "broke" in result.error.message
    assert len(fake.requests) == 1


def test_an_error_in_the_stream() -> None:
    result, _ = read(streams("half", finish=None, then=[{"error": {"message": "CUDA out of memory", "code": 500}}]))
    assert result.error is not None
    assert "CUDA out of memory" in result.error.message


@pytest.mark.parametrize("body", ["[1]", "{", "<html>"])
def test_what_is_no_completion(body: str) -> None:
    def answer(handler: Handler, _body: Mapping[str, Any]) -> None:
        handler.begin()
        handler.say(body)

    result, _ = read(answer)
    assert result.error is not None
    assert "no chat completion" in result.error.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{}", "no chat completion"),
        ('{"choices": []}', "no chat completion"),
        ('{"choices": "none"}', "no chat completion"),
        ('{"choices": [{}]}', "no chat completion"),
        ('{"choices": [null]}', "no chat completion"),
        ("<html><body>It works!</body></html>", "no chat completion"),
        ("", "no chat completion"),
        ('{"error": {"message": "model is loading"}}', "model is loading"),
        ('{"error": "Unexpected endpoint or method."}', "Unexpected endpoint or method"),
        ('{"error": true}', "failed."),
        ('{"object": "error", "message": "no such model", "code": 404}', "no such model"),
    ],
)
def test_what_is_no_completion_although_all_is_well(body: str, words: str) -> None:
    result, fake = read(says(body.encode(), "application/json"))
    assert result.error is not None and words in result.error.message
    assert (result.status, result.text, len(fake.requests)) == (PageStatus.FAILED, "", 1)


def test_a_stream_says_so_in_any_letters_and_nothing_else_is_one() -> None:
    data = b'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    assert read(says(data, "Text/Event-Stream;charset=UTF-8"))[0].text == "x"
    result, _ = read(says(data, "text/plain"))
    assert result.error is not None and "no chat completion" in result.error.message


def slow(handler: Handler, _body: Mapping[str, Any]) -> None:
    handler.begin()
    handler.say(delta("begun"))
    handler.until_gone()


def test_a_slow_engine_is_given_up() -> None:
    with engine(slow) as fake, reader(timeout=0.3) as one:
        (result,) = one.read(fake)
        assert fake.gone.wait(WAIT)
    assert result.error is not None
    assert (result.status, result.error.code, result.raw_text) == (PageStatus.FAILED, "timed_out", "begun")


def test_cancelling_closes_the_connection_at_once() -> None:
    with engine(slow) as fake, reader() as one:

        def later() -> None:
            while not one.texts():
                time.sleep(0.01)
            one.cancelled_at = time.monotonic()  # type: ignore[attr-defined]
            one.cancel.set()

        thread = threading.Thread(target=later)
        thread.start()
        results = one.read(fake, pages(3))
        thread.join()
        ended = time.monotonic()
        assert fake.gone.wait(WAIT)
        since = one.cancelled_at  # type: ignore[attr-defined]
    assert ended - since < 3 and fake.gone_at - since < 3
    assert PageStatus.CANCELLED in {result.status for result in results}
    assert next(r for r in results if r.raw_text == "begun").status is PageStatus.CANCELLED


def test_a_listener_that_raises_ends_everything() -> None:
    class Stop(Exception):
        pass

    with engine(slow, slow, slow) as fake, reader() as one:
        remote = one.engines.find(reference(fake.url, LIGHTON))

        def tell(event: Event) -> None:
            if isinstance(event, TextDelta):
                raise Stop

        request = OcrRequest(source=Upload(data=b""))
        reading = RemoteReading(one.engines, remote, one.threads, pages(3), request, tell, one.cancel)
        with pytest.raises(Stop):
            reading.run()
        assert fake.gone.wait(WAIT)
        assert one.engines.room._value == one.options.at_once + 2  # type: ignore[attr-defined]


def test_pages_run_side_by_side_up_to_the_limit() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def counted(handler: Handler, body: Mapping[str, Any]) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        streams("x")(handler, body)

    with engine() as fake, reader(at_once=3) as one:
        fake.otherwise = counted
        two = [threading.Thread(target=one.read, args=(fake, pages(6))) for _ in range(2)]
        for thread in two:
            thread.start()
        for thread in two:
            thread.join()
    assert len(fake.requests) == 12
    assert most == 3
    assert one.engines.room._value == 5


def test_one_bad_page_fails_alone() -> None:
    document = FakeDocument({0: picture(), 1: BadPdf("Page 2 is damaged."), 2: picture()})

    with engine() as fake, reader() as one:
        results = one.read(fake, document)
    assert [result.status for result in results] == [PageStatus.OK, PageStatus.FAILED, PageStatus.OK]
    assert [result.index for result in results] == [0, 1, 2]


def test_a_loop_is_cut_and_the_engine_let_go() -> None:
    def loops(handler: Handler, _body: Mapping[str, Any]) -> None:
        handler.begin()
        handler.say(delta("Once. "))
        for _ in range(2000):
            handler.say(delta("again "))
            handler.say(delta("and "))
        handler.until_gone()

    with engine(loops) as fake, reader() as one:
        (result,) = one.read(fake)
        assert fake.gone.wait(WAIT)
    assert (result.status, result.finish, result.text) == (PageStatus.LOOP_STOPPED, Finish.LOOP, "Once. again and")


def test_what_another_ocr_mlx_knows_of_the_page() -> None:
    report = {"status": "loop_stopped", "confidence": 0.75, "pages": [{"index": 0, "text": "what stayed"}]}
    last = {**delta("", "length"), "ocr": report}
    result, _ = read(streams("what came", finish=None, then=[last, usage(5, 6)]))
    assert (result.status, result.text, result.confidence) == (PageStatus.LOOP_STOPPED, "what stayed", 0.75)
    assert result.generated_tokens == 6


def test_another_ocr_mlxs_text_is_looked_at_like_any_engines() -> None:
    def told(text: str) -> PageResult:
        last = {**delta("", "stop"), "ocr": {"pages": [{"text": text}]}}
        return read(says(b"data: " + json.dumps(last).encode("ascii") + b"\n\ndata: [DONE]\n\n"))[0]

    assert told("a\ud800b").text == "a?b"
    long = told("x" * (1 << 22) + "x")
    assert long.error is not None and "does not end" in long.error.message


@pytest.mark.parametrize("report", [None, "x", {"pages": 3}, {"confidence": "high", "pages": [None]}, {"pages": []}])
def test_another_report_changes_nothing(report: object) -> None:
    result, _ = read(streams("text", finish=None, then=[{**delta("", "stop"), "ocr": report}]))
    assert (result.status, result.text, result.confidence) == (PageStatus.OK, "text", None)


def test_redirects_are_not_followed() -> None:
    with engine() as other, engine(refuses(307, Location=f"{other.url}/chat/completions")) as fake, reader() as one:
        (result,) = one.read(fake)
    assert result.error is not None
    assert "redirects" in result.error.message
    assert other.requests == []


def test_the_key_goes_to_the_engine_and_into_no_message_or_log(caplog: pytest.LogCaptureFixture) -> None:
    key = "sk-very-secret"
    caplog.set_level(logging.DEBUG)
    with engine(refuses(401, "Incorrect API key provided: sk-ve***cret")) as fake, reader() as one:
        fake.otherwise = refuses(404, f"no such model for {key} at /v1/chat/completions")
        results = [*one.read(fake, credential=key), *one.read(fake, credential=key)]
    assert all(headers["Authorization"] == f"Bearer {key}" for _, headers, _ in fake.requests)
    said = " ".join(str(result) for result in results)
    assert "401" in said and "404" in said
    assert key not in said + caplog.text and "sk-ve" not in said
    assert "/v1" not in caplog.text and "chat/completions" not in said


def test_qaris_markup_becomes_text_as_it_does_here() -> None:
    said = "<h1>Title</h1><p>Words</p>"
    assert read(streams(said), model="qari")[0].text == "Title\n\nWords"
    assert read(streams(said), model="qari", prompt=Prompt(mode="markdown"))[0].text == "# Title\n\nWords"
