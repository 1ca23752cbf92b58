"""Contract 1's `POST /llm/ocr` over a real socket."""

from __future__ import annotations

import base64
import io
import logging

import httpx
import pytest
from PIL import Image

from ocr_mlx.domain import OcrRequest, PageError, PageStatus
from ocr_mlx.engine.remote import reference
from ocr_mlx.errors import OcrMlxError, QueueFull, RemoteFailed, SourceForbidden
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, page, result, serving


def uri() -> str:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


DATA = {"filename": uri()}
KEYED = DATA | {"api_key": "sk-k"}
TEXT = "text/plain; charset=utf-8"


def last(service: FakeService) -> OcrRequest:
    return service.requests[-1]


def test_the_defaults_are_the_contracts(client: httpx.Client, service: FakeService) -> None:
    answer = client.post("/llm/ocr", json=KEYED)
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, TEXT, "Hello")
    assert answer.headers["x-ocr-mlx-status"] == "ok"
    asked = last(service)
    assert asked.model == "openai+https://api.openai.com:443/v1#gpt-4.1-mini"
    assert (asked.overrides.max_new_tokens, asked.overrides.temperature) == (1000, 0.0)
    assert asked.credential == "sk-k"
    assert asked.prompt.text.startswith("You are an OCR model")
    assert len(asked.prompt.text.splitlines()) == 6


def test_nothing_leaves_for_openai_without_a_key(client: httpx.Client, service: FakeService) -> None:
    before = len(service.requests)
    answer = client.post("/llm/ocr", json=DATA)
    assert answer.status_code == 422 and "endpoint_url" in answer.json()["detail"]
    assert len(service.requests) == before


def test_the_configured_engine_is_asked_where_none_is_named() -> None:
    service = FakeService()
    settings = Settings(model_source="vllm", remote_endpoint="http://gpu:8001/v1")
    with serving(service, settings) as url:
        assert httpx.post(f"{url}/llm/ocr", json=DATA | {"model": "m"}).status_code == 200
    assert last(service).model == "openai+http://gpu:8001/v1#m"


def test_what_the_desktop_app_sends(client: httpx.Client, service: FakeService) -> None:
    said = {
        "model": "smolvlm-500m-instruct@8bit",
        "endpoint_url": "http://localhost:1234/v1/chat/completions",
        "api_key": " sk-mine ",
        "max_tokens": 4096,
        "temperature": 2,
        "prompt": "Read.",
        "unknown": 1,
    }
    assert client.post("/llm/ocr", json=DATA | said).status_code == 200
    asked = last(service)
    assert asked.model == reference("http://localhost:1234/v1", "smolvlm-500m-instruct@8bit")
    assert (asked.credential, asked.prompt.text, asked.overrides.temperature) == ("sk-mine", "Read.", 2.0)
    assert "sk-mine" not in repr(asked)


def test_special_tokens_are_removed(client: httpx.Client, service: FakeService) -> None:
    text = "<s><start_of_utterance>A < b<pad></s> <tag><eot><unk><end_of_utterance>"
    service.behave = lambda _request, _cancel: result(page(0, text), page(1, "two", PageStatus.TRUNCATED))
    answer = client.post("/llm/ocr", json=KEYED)
    assert answer.text == "A < b <tag>\n\ntwo"
    assert answer.headers["x-ocr-mlx-status"] == "ok,truncated"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RemoteFailed("The remote engine could not be reached."), 502),
        (SourceForbidden("This remote engine may not be used from here."), 403),
        (QueueFull("Full."), 429),
    ],
)
def test_failures_say_what_failed(client: httpx.Client, service: FakeService, error: OcrMlxError, status: int) -> None:
    def fails(_request: object, _cancel: object) -> None:
        raise error

    service.behave = fails  # type: ignore[assignment]
    answer = client.post("/llm/ocr", json=KEYED)
    assert (answer.status_code, answer.json()) == (status, {"detail": f"LLM OCR failed: {error.message}"})
    assert answer.headers["x-ocr-mlx-error"] == error.code


def test_a_failed_page_is_no_empty_success(
    client: httpx.Client, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "ocr_mlx")
    bad = page(0, "", PageStatus.FAILED, error=PageError(code="remote_failed", message="The engine failed."))
    service.behave = lambda _request, _cancel: result(bad)
    answer = client.post("/llm/ocr", json=KEYED)
    assert (answer.status_code, answer.json()) == (502, {"detail": "LLM OCR failed: The engine failed."})
    assert [record.getMessage() for record in caplog.records] == ["failed: remote_failed"]


@pytest.mark.parametrize(
    ("wrong", "status", "words"),
    [
        ({"filename": ""}, 400, "empty"),
        ({"filename": "/etc/passwd"}, 400, "no address"),
        ({"endpoint_url": "ftp://host"}, 422, "malformed"),
        ({"endpoint_url": "http://u:sk-mine@host/v1"}, 422, "malformed"),
        ({"api_key": "a b"}, 422, "api_key"),
    ],
)
def test_what_cannot_be_used(client: httpx.Client, wrong: dict[str, str], status: int, words: str) -> None:
    answer = client.post("/llm/ocr", json=DATA | wrong)
    detail = answer.json()["detail"]
    assert (answer.status_code, detail[:15]) == (status, "LLM OCR failed:")
    assert words in detail
    assert "sk-mine" not in detail


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": 5000}, {"max_tokens": 0}, {"temperature": 2.1}, {"model": ""}, {"prompt": None}]
)
def test_ranges(client: httpx.Client, wrong: dict[str, object]) -> None:
    answer = client.post("/llm/ocr", json=DATA | wrong)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", *wrong]


def test_a_key_of_the_wrong_kind_is_not_repeated(client: httpx.Client) -> None:
    answer = client.post("/llm/ocr", json=DATA | {"api_key": 123456789})
    assert answer.status_code == 422
    assert "123456789" not in answer.text


def test_the_key_is_in_no_log(client: httpx.Client, service: FakeService, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.post("/llm/ocr", json=DATA | {"api_key": "sk-mine", "endpoint_url": "http://host:1/secret"})
    assert last(service).credential == "sk-mine"
    own = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("ocr_mlx"))
    assert "sk-mine" not in own and "secret" not in own


def test_the_clients_generator_finds_its_names(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    operation = described["paths"]["/llm/ocr"]["post"]
    assert (operation["operationId"], operation["tags"]) == ("llm-llm_ocr", ["llm"])
    assert "LLMOCRRequest" in described["components"]["schemas"]
