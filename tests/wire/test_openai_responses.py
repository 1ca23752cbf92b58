"""The Responses API and the list of models, asked for with the `openai` package."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ocr_mlx.domain import (
    DocumentDone,
    DocumentStarted,
    OcrRequest,
    OcrResult,
    PageDone,
    PageStatus,
    TextDelta,
)
from ocr_mlx.errors import OutOfMemory
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, page, result
from tests.wire.openai_fakes import DEEPSEEK, PNG, Step, TellingService, client_of

IMAGE = {"type": "input_image", "image_url": PNG, "detail": "auto"}
INPUT: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Read."}, IMAGE]}]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[FakeService, openai.OpenAI]]:
    service = FakeService()
    with client_of(service) as client:
        yield service, client


def test_a_response(client: openai.OpenAI, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(
        page(0, "One", prompt_tokens=7, generated_tokens=2), page(1, "Two")
    )
    answer = client.responses.create(
        model=DEEPSEEK,
        input=INPUT,
        instructions="You read.",
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        metadata={"scan": "7"},
    )
    assert (answer.output_text, answer.status, answer.model) == ("One\n\nTwo", "completed", "fake")
    assert answer.id.startswith("resp_") and answer.output[0].id.startswith("msg_")  # type: ignore[union-attr]
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (7, 2, 9)
    assert (answer.instructions, answer.max_output_tokens, answer.temperature) == ("You read.", 9, 0.5)
    assert answer.metadata == {"scan": "7"}
    assert answer.incomplete_details is None and answer.error is None
    [request] = service.requests
    assert (request.prompt.text, request.prompt.system) == ("Read.", "You read.")
    assert (request.overrides.max_new_tokens, request.overrides.temperature) == (9, 0.5)


def test_a_text_that_was_cut_short_is_incomplete(client: openai.OpenAI, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(page(0, "One", PageStatus.TRUNCATED))
    answer = client.responses.create(model=DEEPSEEK, input=INPUT)
    assert answer.status == "incomplete" and answer.incomplete_details is not None
    assert (answer.incomplete_details.reason, answer.output_text) == ("max_output_tokens", "One")


def test_a_schema(client: openai.OpenAI, service: FakeService) -> None:
    schema = {"type": "object"}
    text: Any = {"format": {"type": "json_schema", "name": "bill", "schema": schema, "strict": True}}
    answer = client.responses.create(model=DEEPSEEK, input=INPUT, text=text)
    assert json.loads(str(service.requests[0].overrides.json_schema)) == schema
    assert answer.text is not None and answer.text.format is not None and answer.text.format.type == "json_schema"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": "Hello?"}, "no image or file"),
        ({"input": 5}, "input"),
        ({"model": None}, "model"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "schema"),
        ({"previous_response_id": "resp_1"}, "not kept"),
        ({"conversation": "conv_1"}, "not kept"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"prompt": {"id": "x"}}, "templates"),
    ],
)
def test_what_cannot_be_had(client: openai.OpenAI, service: FakeService, change: dict[str, Any], words: str) -> None:
    answer = httpx.post(f"{client.base_url}responses", json={"model": DEEPSEEK, "input": INPUT} | change)
    assert answer.status_code == 400 and not service.requests
    error = answer.json()["error"]
    assert words in error["message"] and error["type"] == "invalid_request_error"


def test_errors_become_the_packages_own(client: openai.OpenAI, service: FakeService) -> None:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        raise OutOfMemory("The page is too big.")

    service.behave = behave
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="too big"):
            client.responses.create(model=DEEPSEEK, input=INPUT, stream=stream)


# --- streams ---------------------------------------------------------------------------------------------------------


def telling(*steps: Step, status: PageStatus = PageStatus.OK) -> TellingService:
    one = page(0, "Some plain words.", status, prompt_tokens=1, generated_tokens=4)
    started: list[Step] = [DocumentStarted(model="fake", pages=(0,)), TextDelta(page=0, text="Some plain wor"), *steps]
    return TellingService(documents=[[*started, PageDone(result=one), DocumentDone(result=result(one))]])


def test_a_stream() -> None:
    with client_of(telling()) as client:
        events = list(client.responses.create(model=DEEPSEEK, input=INPUT, stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))  # type: ignore[union-attr]
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["Some plain", " words."]
    final = events[-1]
    assert final.type == "response.completed" and final.response.output_text == "Some plain words."
    assert final.response.usage is not None and final.response.usage.total_tokens == 5


def test_the_packages_own_helper() -> None:
    with client_of(telling()) as client, client.responses.stream(model=DEEPSEEK, input=INPUT) as stream:
        assert stream.get_final_response().output_text == "Some plain words."


def test_a_stream_that_was_cut_short() -> None:
    with client_of(telling(status=PageStatus.TRUNCATED)) as client:
        *_, last = client.responses.create(model=DEEPSEEK, input=INPUT, stream=True)
    assert last.type == "response.incomplete" and last.response.status == "incomplete"


def test_a_stream_that_fails_on_its_way() -> None:
    def fail(_cancel: threading.Event) -> None:
        raise OutOfMemory("The page is too big.")

    with client_of(telling(fail)) as client:
        *_, last = client.responses.create(model=DEEPSEEK, input=INPUT, stream=True)
    assert last.type == "response.failed" and last.response.error is not None
    assert last.response.error.message == "The page is too big."


# --- models ----------------------------------------------------------------------------------------------------------


def test_the_list_of_models(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    for name, owner, root in (
        (DEEPSEEK, "deepseek-ai", DEEPSEEK),
        ("deepseek-ocr", "deepseek-ai", DEEPSEEK),
        ("builtin", "ocr_mlx", "builtin"),
        ("qari", "NAMAA-Space", "NAMAA-Space/Qari-OCR-v0.3-VL-2B-Instruct"),
    ):
        model: Any = models[name]
        assert (model.object, model.owned_by, model.root) == ("model", owner, root)
        assert isinstance(model.created, int)
    builtin: Any = models["builtin"]
    assert builtin.here is True and builtin.created > 1_600_000_000


def test_one_model(client: openai.OpenAI) -> None:
    assert client.models.retrieve(DEEPSEEK).owned_by == "deepseek-ai"
    assert client.models.retrieve("DeepSeek").id == "deepseek"
    for unknown in ("no/such", "nonsense", "/etc"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(unknown)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_offline_only_what_is_here_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    settings = Settings(offline=True, models_dir=tmp_path / "hub", deepseek_model=folder)
    with client_of(FakeService(), settings) as client:
        listed = {model.root for model in client.models.list()}  # type: ignore[attr-defined]
    assert listed == {"builtin", DEEPSEEK}
