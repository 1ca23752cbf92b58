"""What is refused under `/v1` is refused in OpenAI's shape, whichever part of the server refuses it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from ocr_mlx.domain import OcrRequest, OcrResult
from ocr_mlx.errors import OcrMlxError, QueueFull, UnsupportedArchitecture
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, serving
from tests.wire.openai_fakes import DEEPSEEK, PNG, messages

KEY = {"Authorization": "Bearer sesame"}
JSON = {"Content-Type": "application/json"}
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
INPUT = [{"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}]
BODIES = {CHAT: {"model": DEEPSEEK, "messages": messages()}, RESPONSES: {"model": DEEPSEEK, "input": INPUT}}
LARGE = b'"' + b"x" * (3 * 1024 * 1024) + b'"'


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[FakeService, httpx.Client]]:
    service = FakeService()
    settings = Settings(token="sesame", max_file_mb=1)
    with serving(service, settings) as url, httpx.Client(base_url=url, headers=KEY, timeout=20) as client:
        yield service, client


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json" and set(answer.json()) == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize("path", [*BODIES, "/v1/models", "/v1/models/builtin", "/v1/nothing"])
def test_without_the_key(client: httpx.Client, path: str) -> None:
    for given, words in (("", "needed"), ("Bearer wrong", "wrong"), ("Basic sesame", "wrong")):
        headers = {"Authorization": given} if given else {}
        answer = httpx.request("POST" if path in BODIES else "GET", f"{client.base_url}{path}", headers=headers)
        error = error_of(answer, 401)
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        assert words in error["message"] and answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/completions", "/v1/files", "/v1/responses/resp_1", "/v1/v1/models"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_routes_that_are_not_there(client: httpx.Client, path: str, method: str) -> None:
    error = error_of(client.request(method, path), 404)
    assert error["type"] == "invalid_request_error" and "openapi.json" in error["message"]


@pytest.mark.parametrize("path", ["/chat/completions", "/responses"])
def test_a_base_address_without_v1_says_what_is_missing(client: httpx.Client, path: str) -> None:
    assert "end in /v1" in error_of(client.post(path, json={}), 404)["message"]
    with openai.OpenAI(base_url=str(client.base_url), api_key="sesame", max_retries=0) as mistaken:
        with pytest.raises(openai.NotFoundError, match="end in /v1"):
            mistaken.chat.completions.create(model=DEEPSEEK, messages=messages())


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", CHAT, "POST"), ("DELETE", RESPONSES, "POST"), ("POST", "/v1/models", "GET"), ("PUT", "/v1/health", "GET")],
)
def test_other_methods(client: httpx.Client, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)
    assert allowed in error_of(answer, 405)["message"] and answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("status", "sent", "words"),
    [
        (413, {"content": LARGE, "headers": JSON}, "OCR_MLX_MAX_FILE_MB"),
        (413, {"content": [LARGE], "headers": JSON}, "OCR_MLX_MAX_FILE_MB"),
        (415, {"content": "x", "headers": {"Content-Type": "text/plain"}}, "application/json"),
        (415, {"content": "{}"}, "Content-Type"),
        (415, {"files": {"file": b"x"}}, "JSON"),
        (415, {"data": {"model": DEEPSEEK}}, "application/json"),
        (400, {"content": '{"model": ', "headers": JSON}, "no JSON: Expecting value at character 10"),
        (400, {"content": b"\xff", "headers": JSON}, "UTF-8"),
        (400, {"content": "[]", "headers": JSON}, "object"),
        (400, {"headers": JSON}, "object"),
        (403, {"json": {}, "headers": {"Origin": "https://evil.example"}}, "Origin"),
        (403, {"json": {}, "headers": {"Host": "evil.example"}}, "Host"),
        (400, {"content": "{}", "headers": [*JSON.items(), *JSON.items()]}, "once"),
    ],
)
def test_bodies_and_headers(
    client: httpx.Client, service: FakeService, path: str, status: int, sent: dict[str, Any], words: str
) -> None:
    assert words in error_of(client.post(path, **sent), status)["message"]
    assert not service.requests


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (UnsupportedArchitecture("Not read here."), 422, "invalid_request_error"),
        (QueueFull("Too much.", seconds=7.0), 429, "rate_limit_error"),
    ],
)
def test_what_the_engine_refuses(
    client: httpx.Client, service: FakeService, path: str, stream: bool, error: OcrMlxError, status: int, kind: str
) -> None:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        raise error

    service.behave = behave
    answer = client.post(path, json=BODIES[path] | {"stream": stream})
    told = error_of(answer, status)
    assert (told["type"], told["code"]) == (kind, error.code)
    assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
