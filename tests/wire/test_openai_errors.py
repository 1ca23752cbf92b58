"""What goes wrong at `/v1/chat/completions`, as the `openai` package tells its users."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from ocr_mlx.domain import DataUri, Finish, OcrRequest, OcrResult, PageError, PageStatus
from ocr_mlx.errors import (
    BadImage,
    DownloadFailed,
    FetchFailed,
    InvalidOption,
    OcrMlxError,
    OutOfMemory,
    PdfLocked,
    QueueFull,
    SourceTooLarge,
    TimedOut,
    UnknownModel,
    UnsupportedMedia,
)
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, page, result, serving
from tests.wire.openai_fakes import DEEPSEEK, client_of, image, messages


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[FakeService, openai.OpenAI]]:
    service = FakeService()
    with client_of(service) as client:
        yield service, client


def post(client: openai.OpenAI, body: Any) -> httpx.Response:
    return httpx.post(f"{client.base_url}chat/completions", json=body)


def ask(client: openai.OpenAI, *parts: dict[str, Any], **more: Any) -> Any:
    return client.chat.completions.create(model=DEEPSEEK, messages=messages(*parts), **more)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([{"type": "text", "text": "Hello?"}], "no image or file"),
        ([image("file:///etc/passwd")], "file:"),
        ([image("FILE:///etc/passwd")], "file:"),
        ([image("/etc/passwd")], "no address"),
        ([image("ftp://host/a.png")], "ftp:"),
        ([image("data:image/png;base64,a")], "damaged"),
        ([image("data:image/png;base64,")], "empty"),
        ([image("")], "holds no document"),
        ([{"type": "image_url"}], "holds no document"),
        ([{"type": "input_image", "file_id": "file-1"}], "file_id"),
        ([{"type": "file", "file": {"file_id": "file-1"}}], "file_id"),
        ([{"type": "file", "file": {"file_data": "~~~"}}], "damaged"),
        ([{"type": "input_audio", "input_audio": {}}], "input_audio"),
        ([image()] * 33, "32 at most"),
    ],
)
def test_documents_that_cannot_be_had(
    client: openai.OpenAI, service: FakeService, parts: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, *parts)
    assert words in caught.value.message and caught.value.type == "invalid_request_error"
    assert "passwd" not in caught.value.message and not service.requests


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": "  "}, "model"),
        ({"model": 5}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Read."}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"timeout": 0}, "timeout"),
        ({"fresh": "perhaps"}, "fresh"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ""}, "stop"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
    ],
)
def test_fields_that_cannot_be(client: openai.OpenAI, service: FakeService, change: dict[str, Any], param: str) -> None:
    answer = post(client, {"model": DEEPSEEK, "messages": messages()} | change)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert error["param"] == param and error["message"] and not service.requests


def test_a_missing_model_is_a_400(client: openai.OpenAI) -> None:
    answer = post(client, {"messages": messages()})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


def test_what_asks_for_nothing_special_is_let_through(client: openai.OpenAI, service: FakeService) -> None:
    harmless = {"n": 1, "tools": [], "logprobs": False, "modalities": ["text"], "presence_penalty": 0, "logit_bias": {}}
    assert post(client, {"model": DEEPSEEK, "messages": messages()} | harmless).status_code == 200


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (BadImage("Bad."), openai.BadRequestError, 400),
        (UnsupportedMedia("Bad."), openai.BadRequestError, 400),
        (FetchFailed("Bad."), openai.BadRequestError, 400),
        (InvalidOption("Bad."), openai.BadRequestError, 400),
        (PdfLocked("Bad."), openai.BadRequestError, 400),
        (SourceTooLarge("Bad."), openai.APIStatusError, 413),
        (TimedOut("Bad."), openai.InternalServerError, 504),
        (UnknownModel("Bad."), openai.NotFoundError, 404),
        (QueueFull("Bad."), openai.RateLimitError, 429),
        (DownloadFailed("Bad."), openai.InternalServerError, 502),
        (OutOfMemory("Bad."), openai.InternalServerError, 503),
        (RuntimeError("/home/secret"), openai.InternalServerError, 500),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_become_the_packages_own(
    client: openai.OpenAI, service: FakeService, error: Exception, kind: type[Exception], status: int, stream: bool
) -> None:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        raise error

    service.behave = behave
    with pytest.raises(kind) as caught:
        ask(client, stream=stream)
    problem = caught.value
    assert isinstance(problem, openai.APIStatusError) and problem.status_code == status
    assert "secret" not in problem.message and isinstance(problem.body, dict) and problem.body["message"]
    if isinstance(error, UnknownModel):
        assert (problem.code, problem.param) == ("model_not_found", "model")
    elif isinstance(error, OcrMlxError):
        assert problem.code == error.code
    assert ("retry-after" in problem.response.headers) is (status in (429, 503))


def test_a_document_that_failed_is_an_error_and_says_which(client: openai.OpenAI, service: FakeService) -> None:
    def behave(request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        assert isinstance(request.source, DataUri)
        if request.source.data == b"bad":
            return result(page(0, "", PageStatus.FAILED, error=PageError(code="bad_image", message="It is torn.")))
        return result(page())

    service.behave = behave
    with pytest.raises(openai.BadRequestError, match=r"Document 2 of 2: It is torn\."):
        ask(client, image("data:,good"), image("data:,bad"))
    with pytest.raises(openai.BadRequestError, match=r"Document 2 of 2: Addresses of the kind file:"):
        ask(client, image("data:,good"), image("file:///x"))


def test_a_limit_that_leaves_no_text_is_the_requests_own_fault(client: openai.OpenAI, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(page(0, "", PageStatus.TRUNCATED, finish=Finish.LENGTH))
    with pytest.raises(openai.BadRequestError, match="After 1 tokens") as caught:
        ask(client, max_tokens=1)
    assert caught.value.param == "max_tokens"
    with pytest.raises(openai.InternalServerError, match="left no text"):
        ask(client)


def test_a_key_is_asked_for_where_one_is_set() -> None:
    with serving(FakeService(), Settings(token="sesame")) as url:
        for key, kind in (("sesame", None), ("wrong", openai.AuthenticationError)):
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                if kind is None:
                    assert ask(client).choices[0].message.content == "Hello"
                    continue
                with pytest.raises(kind) as caught:
                    ask(client)
                assert caught.value.status_code == 401 and caught.value.type == "authentication_error"
                with pytest.raises(kind):
                    client.models.list()
        assert httpx.get(f"{url}/v1/health").status_code == 200


def test_a_client_that_leaves_stops_the_work(service: FakeService, client: openai.OpenAI) -> None:
    cancelled = threading.Event()

    def behave(_request: OcrRequest, cancel: threading.Event) -> OcrResult:
        if cancel.wait(10):
            cancelled.set()
        return result(page(status=PageStatus.CANCELLED))

    service.behave = behave
    with pytest.raises(openai.APITimeoutError):
        ask(client, timeout=0.3)
    assert cancelled.wait(10)
