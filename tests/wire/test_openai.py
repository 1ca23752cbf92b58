"""Contract 2 over a real socket: chat completions, asked for with the `openai` package and by hand."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pydantic
import pytest

from ocr_mlx.domain import (
    ANY_JSON_OBJECT,
    UNSET,
    DataUri,
    Finish,
    OcrRequest,
    OcrResult,
    PageError,
    PageResult,
    PageStatus,
    RemoteUrl,
    Upload,
)
from tests.wire.fakes import FakeService, page, result, serving
from tests.wire.openai_fakes import DEEPSEEK, PNG, client_of, image, messages, user


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[FakeService, openai.OpenAI]]:
    service = FakeService()
    with client_of(service) as client:
        yield service, client


def post(client: openai.OpenAI, body: Any) -> httpx.Response:
    return httpx.post(f"{client.base_url}chat/completions", json=body)


def ask(client: openai.OpenAI, *parts: dict[str, Any], **more: Any) -> Any:
    return client.chat.completions.create(model=DEEPSEEK, messages=messages(*parts), **more)


def test_the_whole_answer(client: openai.OpenAI, service: FakeService) -> None:
    pages = (
        page(0, "One", confidence=0.5, prompt_tokens=10, generated_tokens=1),
        page(2, "Two", confidence=1.0, prompt_tokens=5, generated_tokens=3),
        page(3, "", PageStatus.BLANK),
    )
    service.behave = lambda _request, _cancel: result(*pages)
    before = int(time.time())
    answer = post(client, {"model": "deepseek", "messages": messages()}).json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert before <= answer.pop("created") <= time.time()
    assert answer == {
        "object": "chat.completion",
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "One\n\nTwo", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 15, "completion_tokens": 4, "total_tokens": 19},
        "ocr": {
            "status": "ok",
            "confidence": 0.875,
            "pages": [
                {"document": 0, "index": 0, "status": "ok", "confidence": 0.5},
                {"document": 0, "index": 2, "status": "ok", "confidence": 1.0},
                {"document": 0, "index": 3, "status": "blank", "confidence": None},
            ],
        },
    }
    [request] = service.requests
    assert (request.model, request.prompt.system, request.prompt.text) == ("deepseek", "You read.", "Read.")
    assert request.source == DataUri(media_type="image/png", data=b"x")
    assert request.overrides.temperature is UNSET and request.overrides.max_new_tokens is UNSET


def test_the_request_of_the_older_service_as_it_stands(client: openai.OpenAI, service: FakeService) -> None:
    body = {
        "model": DEEPSEEK,
        "messages": [
            {"role": "system", "content": "You are an OCR assistant."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Extract all text."},
                    {"type": "input_image", "image_url": PNG},
                ],
            },
        ],
        "temperature": 0.0,
        "max_tokens": 2000,
        "top_p": 1.0,
    }
    answer = post(client, body)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "Hello"
    [request] = service.requests
    assert (request.overrides.temperature, request.overrides.max_new_tokens) == (0.0, 2000)
    assert (request.prompt.text, request.prompt.system) == ("Extract all text.", "You are an OCR assistant.")


@pytest.mark.parametrize(
    "part",
    [
        image(),
        {"type": "image_url", "image_url": PNG},
        {"type": "input_image", "image_url": PNG},
        {"type": "input_image", "image_url": {"url": PNG}},
        {"type": "input_image", "image_url": {"image_url": PNG}},
        {"type": "file", "file": {"file_data": PNG, "filename": "a.png"}},
        {"type": "input_file", "file_data": PNG, "filename": "a.png"},
    ],
)
def test_every_spelling_of_a_document(client: openai.OpenAI, service: FakeService, part: dict[str, Any]) -> None:
    assert ask(client, part).choices[0].message.content == "Hello"
    assert service.requests[0].source == DataUri(media_type="image/png", data=b"x")


def test_addresses_and_bare_base64(client: openai.OpenAI, service: FakeService) -> None:
    ask(client, image("https://host/page.png"))
    ask(client, {"type": "input_file", "file_url": "http://host/paper.pdf"})
    ask(client, {"type": "file", "file": {"file_data": "eA==", "filename": "../a.pdf"}})
    assert [request.source for request in service.requests] == [
        RemoteUrl(url="https://host/page.png"),
        RemoteUrl(url="http://host/paper.pdf"),
        Upload(data=b"x", name="a.pdf"),
    ]


def test_several_documents_are_read_in_turn(client: openai.OpenAI, service: FakeService) -> None:
    def behave(request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        assert isinstance(request.source, DataUri)
        text = request.source.data.decode()
        return result(page(0, text, prompt_tokens=2, generated_tokens=1), page(1, ""))

    service.behave = behave
    answer = ask(client, image("data:,first"), {"type": "text", "text": "Both."}, image("data:,second"))
    assert answer.choices[0].message.content == "first\n\nsecond"
    assert answer.usage.total_tokens == 6
    assert [(p["document"], p["index"]) for p in answer.ocr["pages"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_which_messages_count(client: openai.OpenAI, service: FakeService) -> None:
    said = [
        {"role": "system", "content": [{"type": "text", "text": "One."}]},
        user({"type": "text", "text": "Old."}, image("data:,old")),
        user({"type": "text", "text": "Read."}, image("data:,new")),
        {"role": "assistant", "content": "Text"},
        {"role": "developer", "content": "Two."},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": "And the sum?"},
    ]
    assert post(client, {"model": "builtin", "messages": said}).status_code == 200
    [request] = service.requests
    assert (request.prompt.text, request.prompt.system) == ("And the sum?", "One.\n\nTwo.")
    assert isinstance(request.source, DataUri) and request.source.data == b"new"


def test_options(client: openai.OpenAI, service: FakeService) -> None:
    extra = {
        "top_k": 3,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 20,
        "mode": "raw",
        "pages": "1-2",
        "password": "secret",
        "dpi": 100,
        "keep_alive": 5,
        "timeout": 60,
        "fresh": True,
        "unknown": [{}],
    }
    ask(client, temperature=2, top_p=0.5, max_completion_tokens=7, stop=["a", "b"], seed=-1, extra_body=extra)
    ask(client, max_tokens=8, stop="END", extra_body={"do_sample": False, "temperature": 0.7, "seed": None})
    ask(client, extra_body={"max_new_tokens": 9, "do_sample": True})
    first, second, third = service.requests
    assert (first.overrides.temperature, first.overrides.top_p, first.overrides.top_k) == (2.0, 0.5, 3)
    assert (first.overrides.repetition_penalty, first.overrides.no_repeat_ngram) == (1.2, 20)
    assert (first.overrides.max_new_tokens, first.overrides.stop) == (7, ("a", "b"))
    assert first.overrides.seed == 2**63 - 1 and first.overrides.json_schema is UNSET
    assert (first.prompt.mode, first.page_range, first.password, first.dpi) == ("raw", "1-2", "secret", 100.0)
    assert (first.keep_alive, first.timeout, first.fresh) == (5.0, 60.0, True)
    assert (second.overrides.temperature, second.overrides.max_new_tokens) == (0.0, 8)
    assert second.overrides.stop == ("END",) and second.overrides.seed is UNSET
    assert third.overrides.max_new_tokens == 9 and third.overrides.temperature is UNSET
    assert (third.timeout, third.fresh) == (None, False)


def test_a_json_schema_goes_to_the_decoder_and_the_models_own_words_come_back(
    client: openai.OpenAI, service: FakeService
) -> None:
    read = PageResult(index=0, status=PageStatus.OK, text="cleaned", raw_text=' {"total": "<b>1</b>"}\n')
    service.behave = lambda _request, _cancel: result(read)
    schema = {"type": "object", "properties": {"total": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "bill", "schema": schema, "strict": True}}
    answer = ask(client, response_format=form)
    assert json.loads(answer.choices[0].message.content) == {"total": "<b>1</b>"}
    ask(client, response_format={"type": "json_object"})
    ask(client, response_format={"type": "text"})
    told = [request.overrides.json_schema for request in service.requests]
    assert json.loads(str(told[0])) == schema
    assert told[1:] == [ANY_JSON_OBJECT, UNSET]


class Bill(pydantic.BaseModel):
    total: int


def test_the_packages_parsing(client: openai.OpenAI, service: FakeService) -> None:
    read = PageResult(index=0, status=PageStatus.OK, text="cleaned", raw_text='{"total": 3}')
    service.behave = lambda _request, _cancel: result(read)
    answer = client.chat.completions.parse(model=DEEPSEEK, messages=messages(), response_format=Bill)
    assert answer.choices[0].message.parsed == Bill(total=3)
    content: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}]
    response = client.responses.parse(model=DEEPSEEK, input=content, text_format=Bill)
    assert response.output_parsed == Bill(total=3)
    for request in service.requests:
        assert json.loads(str(request.overrides.json_schema))["properties"]["total"]["type"] == "integer"


@pytest.mark.parametrize(
    ("status", "finish", "reason"),
    [
        (PageStatus.OK, Finish.STOP, "stop"),
        (PageStatus.TRUNCATED, Finish.LENGTH, "length"),
        (PageStatus.LOOP_STOPPED, Finish.LOOP, "length"),
        (PageStatus.LOOP_RECOVERED, Finish.EOS, "stop"),
    ],
)
def test_a_text_that_was_cut_short_says_so(
    client: openai.OpenAI, service: FakeService, status: PageStatus, finish: Finish, reason: str
) -> None:
    service.behave = lambda _request, _cancel: result(page(0, "One"), page(1, "Two", status, finish=finish))
    answer = ask(client)
    assert (answer.choices[0].finish_reason, answer.ocr["status"]) == (reason, status.value)


def test_a_failed_page_among_others_is_told(client: openai.OpenAI, service: FakeService) -> None:
    bad = page(1, "", PageStatus.FAILED, error=PageError(code="bad_pdf", message="Page 2 is damaged."))
    service.behave = lambda _request, _cancel: result(page(0, "One"), bad)
    report = ask(client).ocr
    assert report["status"] == "failed" and report["pages"][1]["error"] == {
        "code": "bad_pdf",
        "message": "Page 2 is damaged.",
    }
    assert "error" not in report["pages"][0]


@pytest.mark.parametrize(
    ("used", "asked_for", "shown"),
    [
        ("deepseek-ai/DeepSeek-OCR", "deepseek", "deepseek-ai/DeepSeek-OCR"),
        ("/srv/models/deepseek", DEEPSEEK, DEEPSEEK),
        ("openai+http://gpu:8001/v1#lightonai/LightOnOCR-2-1B", "lighton", "lightonai/LightOnOCR-2-1B"),
    ],
)
def test_the_model_is_the_one_that_read_and_never_a_place(
    client: openai.OpenAI, service: FakeService, used: str, asked_for: str, shown: str
) -> None:
    service.behave = lambda _request, _cancel: OcrResult(model=used, pages=(page(),), seconds=0.1)
    assert client.chat.completions.create(model=asked_for, messages=messages()).model == shown


def test_the_asynchronous_client() -> None:
    async def go(url: str) -> str | None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            answer = await client.chat.completions.create(model=DEEPSEEK, messages=messages())
            return answer.choices[0].message.content

    with serving(FakeService()) as url:
        assert asyncio.run(go(url)) == "Hello"
