"""Contract 4 over a real socket: `POST /api/inference` and `GET /info`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ocr_mlx import errors
from ocr_mlx.domain import UNSET, Block, OcrRequest, OcrResult, PageError, PageStatus, Upload
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.server.choice import ModelChoice
from ocr_mlx.server.lighton import convert, routes
from ocr_mlx.server.running import EngineSlot
from ocr_mlx.settings import Settings
from tests.wire.fake_jobs import FakeJobs
from tests.wire.fakes import FakeService, context, names_the_media, page, serving

PNG = b"\x89PNG\r\n\x1a\n and so on"
LIGHTON = "lightonai/LightOnOCR-2-1B"


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[FakeService, httpx.Client]]:
    service = FakeService()
    with serving(service, Settings(lighton_max_mb=0.01)) as url, httpx.Client(base_url=url) as client:
        yield service, client


def send(client: httpx.Client, data: bytes = PNG, name: str = "file", **fields: str) -> httpx.Response:
    return client.post("/api/inference", files={name: ("page.png", data)}, data=fields)


def lighton(*pages: object) -> OcrResult:
    return OcrResult(model=LIGHTON, pages=pages, seconds=0.5)  # type: ignore[arg-type]


def raising(error: Exception) -> FakeService:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        raise error

    return FakeService(behave=behave)


def test_the_three_keys(client: httpx.Client, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: lighton(page(0, "one"), page(1, "", PageStatus.BLANK), page(2, "two"))
    answer = send(client)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"text": "one\n\ntwo", "blocks": [], "model_version": "lightonocr-2-1b"}


@pytest.mark.parametrize("name", ["file", "image"])
def test_the_picture_is_read_greedily_without_a_prompt(client: httpx.Client, service: FakeService, name: str) -> None:
    assert send(client, name=name).status_code == 200
    [request] = service.requests
    assert request.source == Upload(data=PNG, name="page.png")
    assert request.model == LIGHTON and not request.prompt.text and not request.prompt.mode
    assert request.overrides.temperature == 0.0 and request.overrides.max_new_tokens is UNSET
    assert request.dpi is None and request.page_range == "" and request.password is None


def test_the_fields_beyond_the_contract(client: httpx.Client, service: FakeService) -> None:
    assert send(client, pages="2-3", max_tokens="7", password="secret").status_code == 200
    [request] = service.requests
    assert (request.page_range, request.overrides.max_new_tokens, request.password) == ("2-3", 7, "secret")


def test_blocks_are_the_models_own(client: httpx.Client, service: FakeService) -> None:
    block = Block(label="title", text="One", box=(1.4, 2.6, 30.0, 40.5), normalized=(0.1, 0.2, 0.3, 0.4))
    service.behave = lambda _request, _cancel: lighton(page(0, "One", blocks=(block,)), page(2, "One", blocks=(block,)))
    told = {"bbox": [1, 3, 30, 40], "category": "title", "text": "One"}
    assert send(client).json()["blocks"] == [told | {"page": 0}, told | {"page": 2}]


@pytest.mark.parametrize(("data", "kind"), [(b"%PDF-1.7\n", "PDF"), (PNG, "PNG")])
def test_the_bytes_decide_the_type(client: httpx.Client, service: FakeService, data: bytes, kind: str) -> None:
    service.behave = names_the_media
    answer = client.post("/api/inference", files={"file": ("letter.doc", data, "application/octet-stream")})
    assert answer.json()["text"] == kind


def test_exactly_the_limit_passes_and_one_more_byte_does_not(client: httpx.Client, service: FakeService) -> None:
    most = int(0.01 * 1024 * 1024)
    assert send(client, b"x" * most).status_code == 200
    answer = send(client, b"x" * (most + 1))
    assert (answer.status_code, answer.json()) == (413, {"detail": "File too large"})
    assert len(service.requests) == 1


def test_an_empty_file(client: httpx.Client, service: FakeService) -> None:
    answer = send(client, b"")
    assert (answer.status_code, answer.json()) == (400, {"detail": "Empty file"}) and not service.requests
    assert answer.headers["x-ocr-mlx-error"] == "unsupported_media"


def test_unknown_fields_are_ignored(client: httpx.Client, service: FakeService) -> None:
    files = {"file": ("page.png", PNG), "thumbnail": ("small.png", b"x")}
    assert client.post("/api/inference", files=files, data={"language": "en"}).status_code == 200
    assert service.requests[0].source == Upload(data=PNG, name="page.png")


def test_the_headers_tell_what_became_of_each_page(client: httpx.Client, service: FakeService) -> None:
    bad = page(2, "", PageStatus.FAILED, error=PageError(code="bad_pdf", message="Page 3 is damaged."))
    service.behave = lambda _request, _cancel: lighton(page(0, "one"), page(1, "two", PageStatus.TRUNCATED), bad)
    answer = send(client)
    assert (answer.status_code, answer.json()["text"]) == (200, "one\n\ntwo")
    told = {name: answer.headers[f"x-ocr-mlx-{name}"] for name in ("pages", "status", "error", "model")}
    assert told == {"pages": "3", "status": "ok,truncated,failed", "error": "bad_pdf", "model": LIGHTON}
    service.behave = lambda _request, _cancel: lighton(bad)
    refused = send(client)
    assert (refused.status_code, refused.headers["x-ocr-mlx-status"]) == (400, "failed")


def test_a_full_queue_says_when_to_come_back(client: httpx.Client, service: FakeService) -> None:
    service.behave = raising(errors.QueueFull("Full.", seconds=16.2)).behave
    answer = send(client)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "17")


@pytest.mark.parametrize(
    "sent",
    [{"files": {"other": b"x"}}, {"data": {"file": "text"}, "files": {"other": b"x"}}, {"json": {"file": "x"}}],
)
def test_without_a_file_it_is_422(client: httpx.Client, service: FakeService, sent: dict[str, object]) -> None:
    answer = client.post("/api/inference", **sent)  # type: ignore[arg-type]
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["body", "file"]
    assert not service.requests


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (errors.UnsupportedMedia("It is text.", hint="Do."), 400, "Invalid image/PDF data: It is text. Do."),
        (errors.BadImage("It is cut off."), 400, "Invalid image/PDF data: It is cut off."),
        (errors.BadPdf("It is damaged."), 400, "Invalid image/PDF data: It is damaged."),
        (errors.PdfLocked("It is locked."), 400, "Invalid image/PDF data: It is locked."),
        (errors.PageOutOfRange("No page 9."), 400, "No page 9."),
        (errors.SourceTooLarge("Too many pixels."), 413, "File too large: Too many pixels."),
        (errors.UnknownModel("No such."), 503, "Model not ready: No such."),
        (errors.DownloadFailed("No network."), 503, "Model not ready: No network."),
        (errors.WeightMismatch(missing=["a"]), 503, None),
        (errors.OcrMlxError("The engine cannot start."), 503, "Model not ready: The engine cannot start."),
        (errors.OutOfMemory("No room."), 503, "No room."),
        (errors.QueueFull("Full."), 429, "Full."),
        (errors.TimedOut("Late."), 504, "Late."),
        (errors.PromptTooLong("Long."), 500, "Inference failed: Long."),
        (errors.DecodeError("Broken."), 500, "Inference failed: Broken."),
    ],
)
def test_what_goes_wrong_has_its_status(
    client: httpx.Client,
    service: FakeService,
    error: OcrMlxError,
    status: int,
    detail: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING", "ocr_mlx")
    service.behave = raising(error).behave
    answer = send(client)
    assert answer.status_code == status and answer.headers["x-ocr-mlx-error"] == error.code
    assert [record.getMessage() for record in caplog.records] == [f"failed: {error.code}"]
    assert detail is None or answer.json() == {"detail": detail}
    if isinstance(error, errors.PageError | errors.DecodeError):
        bad = page(0, "", PageStatus.FAILED, error=PageError(code=error.code, message=str(error)))
        service.behave = lambda _request, _cancel: lighton(bad)
        again = send(client)
        assert (again.status_code, again.json()) == (status, answer.json()), "as a failed page"


def test_no_text_is_no_success_unless_the_page_is_blank(client: httpx.Client, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: lighton(page(0, "", PageStatus.LOOP_STOPPED))
    answer = send(client)
    assert answer.status_code == 500 and answer.json()["detail"].startswith("Inference failed: The model only repeated")
    service.behave = lambda _request, _cancel: lighton(page(0, "", PageStatus.BLANK))
    assert send(client).json()["text"] == ""


def test_what_nobody_expected_tells_nothing(client: httpx.Client, service: FakeService) -> None:
    service.behave = raising(RuntimeError("/home/secret")).behave
    answer = send(client)
    assert answer.status_code == 500 and "detail" in answer.json() and "secret" not in answer.text


def test_lone_surrogates_still_give_an_answer(client: httpx.Client, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: lighton(page(0, "a\ud800b"))
    assert send(client).json()["text"] == "a?b"


def test_info_tells_the_real_device_and_model(client: httpx.Client, service: FakeService) -> None:
    answer = client.get("/info").json()
    assert answer == {"engine": "huggingface", "device": answer["device"], "model": LIGHTON, "api_version": "v1"}
    assert answer["device"] in (("gpu", "cpu", "metal") if sys.platform == "darwin" else ("gpu", "cpu"))
    assert not service.requests


@pytest.mark.parametrize(("named", "waits"), [("", True), ("cuda", False)])
def test_info_waits_for_the_engine_only_to_learn_the_device(
    named: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, asked = threading.Event(), list[str]()
    engine = EngineSlot(lambda: go.wait(10) and FakeService())  # type: ignore[arg-type,return-value]
    made = replace(context(FakeService(), Settings(device=named)), engine=engine)
    monkeypatch.setattr(convert, "device", lambda _settings: asked.append(engine.state) or "cpu")
    with ThreadPoolExecutor(1) as threads:
        told = threads.submit(routes._info, made)
        if waits:
            with pytest.raises(TimeoutError):
                told.result(0.1)
            assert asked == [] and engine.state == "starting", "no array library is loaded beside the engine"
        else:
            assert told.result(10).device == "cpu"
        go.set()
        assert told.result(10).device == "cpu"
    assert asked == ["ready" if waits else "starting"]
    made.runner.close()


def test_with_vllm_everything_says_so() -> None:
    settings = Settings(model_source="vllm", remote_endpoint="http://localhost:8001/v1/chat/completions", device="cuda")
    service = FakeService(behave=lambda _request, _cancel: lighton(page()))
    with serving(service, settings) as url, httpx.Client(base_url=url) as client:
        assert client.get("/info").json() == {
            "engine": "vllm",
            "device": "cuda",
            "model": LIGHTON,
            "api_version": "v1",
        }
        assert send(client).json()["model_version"] == "lightonocr-2-1b-vllm"
    assert service.requests[0].model == f"openai+http://localhost:8001/v1#{LIGHTON}"


def test_model_names_what_is_read_with(tmp_path: Path) -> None:
    folder = tmp_path / "LightOnOCR-2-1B"
    folder.mkdir()
    for model, told in (("lightonocr-2-1b", LIGHTON), ("builtin", "builtin"), (str(folder), "LightOnOCR-2-1B")):
        with serving(FakeService(), Settings(model=model, device="cpu")) as url:
            assert httpx.get(f"{url}/info").json()["model"] == told


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (LIGHTON, "lightonocr-2-1b"),
        (f"{LIGHTON}@main", "lightonocr-2-1b"),
        ("/home/me/models/My-OCR/", "my-ocr"),
        ("C:\\models\\My-OCR", "my-ocr"),
        ("openai+http://host:1/v1#org/Name", "name"),
    ],
)
def test_versions(model: str, told: str) -> None:
    assert convert.version(model, remote=False) == told


def test_a_switched_model_is_told() -> None:
    with serving(FakeService(), Settings(device="cpu"), FakeJobs(current="got")) as url:
        assert httpx.get(f"{url}/info").json()["model"] == "stepfun-ai/GOT-OCR-2.0-hf"


@pytest.mark.parametrize("named", ["", LIGHTON.lower(), "lighton", "me/own-lighton"])
def test_weights_that_lie_in_the_folder_of_models_itself(tmp_path: Path, named: str) -> None:
    config = tmp_path / "config.json"
    settings = Settings(models_dir=tmp_path, model_name=named, contract="lighton", device="cpu")
    service = FakeService(behave=lambda request, _cancel: replace(lighton(page()), model=request.model))
    with serving(service, settings) as url, httpx.Client(base_url=url) as client:
        asked = named if "/" in named else LIGHTON
        assert (send(client).status_code, client.get("/info").json()["model"]) == (200, asked), "a cache"
        config.write_text('{"model_type": "nougat"}')
        send(client)
        config.write_text('{"model_type": "mistral3", "architectures": ["LightOnOcrForConditionalGeneration"]}')
        answer, told = send(client), client.get("/info").json()["model"]
    assert [request.model for request in service.requests[1:]] == [named or LIGHTON, str(tmp_path)]
    assert (answer.json()["model_version"], told) == (asked.lower().rpartition("/")[2], asked)
    assert str(tmp_path) not in answer.text and tmp_path.name == answer.headers["x-ocr-mlx-model"]


def test_weights_of_another_model_are_not_taken_for_those_that_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "mistral3", "architectures": ["LightOnOcrForConditionalGeneration"]}'
    )
    models = ModelChoice(Settings(models_dir=tmp_path, model_name="facebook/nougat-base"), lambda: None)
    assert models.pick("facebook/nougat-base", "ocr_mlx") == "facebook/nougat-base"
    assert models.pick("lightonai/LightOnOCR-2-1B-bbox", "lighton") == "lightonai/LightOnOCR-2-1B-bbox"
    assert models.pick("", "lighton") == str(tmp_path)
