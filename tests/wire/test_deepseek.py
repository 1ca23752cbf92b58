"""Contract 5 over a real socket: modes, reading, layout, errors, origins."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from ocr_mlx import errors
from ocr_mlx.domain import Block, OcrRequest, OcrResult, Page, PageError, PageStatus, Prompt, Upload
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.model.families.deepseek_ocr.family import FAMILY
from ocr_mlx.model.families.deepseek_ocr.modes import Reading
from ocr_mlx.model.families.deepseek_ocr.postprocess import clean_page
from ocr_mlx.server.deepseek.modes import effective, to_prompt
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, page, result, says_hello, serving

DEFAULT = "<image>\n<|grounding|>Convert the document to markdown."
DEEPSEEK = "deepseek-ai/DeepSeek-OCR"
MODES = ["gundam", "base", "small", "tiny", "large"]
RAW = "<|ref|>title<|/ref|><|det|>[[100, 200, 500, 300]]<|/det|>\n# One"
TITLE = Block(label="title", text="# One", box=(80.0, 80.0, 400.0, 120.0), normalized=(0.1, 0.2, 0.5, 0.3))


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "white").save(out, kind)
    return out.getvalue()


PNG = picture()


def drawn(width: int = 800, height: int = 400, index: int = 0) -> Page:
    image = Image.new("RGB", (width, height), "white")
    return Page(index=index, image=image, width=width, height=height, dpi=None, origin="image")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeService, httpx.Client]]:
    service = FakeService()
    settings = Settings(deepseek_max_mb=0.5, history_dir=tmp_path_factory.mktemp("runs"))
    with serving(service, settings) as url, httpx.Client(base_url=url) as client:
        yield service, client


@pytest.fixture
def service(running: tuple[FakeService, httpx.Client]) -> FakeService:
    running[0].behave, running[0].drawn = says_hello, (drawn(),)
    running[0].requests.clear()
    running[0].shown.clear()
    return running[0]


def send(client: httpx.Client, data: bytes = PNG, field: str = "image", **fields: str) -> httpx.Response:
    return client.post("/api/ocr", files={field: ("page.png", data, "image/png")}, data=fields)


def raising(error: Exception) -> FakeService:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        raise error

    return FakeService(behave=behave)


def reads_a_title(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
    return result(dataclasses.replace(page(0, "# One", blocks=(TITLE,), seconds=0.0123456), raw_text=RAW))


def test_the_modes_to_the_letter(client: httpx.Client) -> None:
    answer = client.get("/api/modes").json()
    assert list(answer) == ["defaultPrompt", "modes", "maxImageMb"]
    assert answer["defaultPrompt"] == DEFAULT and answer["maxImageMb"] == 0.5
    assert list(answer["modes"]) == MODES
    facts = {
        "gundam": ("Gundam (动态裁剪)", 1024, 640, True, True, "中等", "更高"),
        "base": ("Base 1024", 1024, 1024, False, False, "中等", "高"),
        "small": ("Small 640", 640, 640, False, False, "较快", "中等"),
        "tiny": ("Tiny 512", 512, 512, False, False, "最快", "基础"),
        "large": ("Large 1280", 1280, 1280, False, False, "最慢", "最高"),
    }
    names = ("label", "base_size", "image_size", "crop_mode", "test_compress", "speed", "quality")
    for name, mode in answer["modes"].items():
        assert tuple(mode[key] for key in names) == facts[name]
        assert set(mode) == {*names, "description"} and mode["description"]


def test_the_limit_is_a_number_with_a_point() -> None:
    with serving(FakeService(), Settings(deepseek_prompt="<image>\nRead.")) as url:
        answer = httpx.get(f"{url}/api/modes")
    assert '"maxImageMb":15.0' in answer.text and answer.json()["defaultPrompt"] == "<image>\nRead."


def test_the_limit_that_is_told_is_the_one_that_holds() -> None:
    settings = Settings(deepseek_max_mb=200.0, max_file_mb=1, history_ttl=0)
    with serving(FakeService(), settings) as url, httpx.Client(base_url=url) as client:
        assert client.get("/api/modes").json()["maxImageMb"] == 1.0
        answer = send(client, PNG + b"x" * 1024 * 1024)
    assert (answer.status_code, answer.json()) == (413, {"detail": "图片体积超过限制（1.0 MB）。"})


def test_the_seven_keys_and_the_later_ones(client: httpx.Client, service: FakeService) -> None:
    service.behave = reads_a_title
    answer = send(client)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    body = answer.json()
    assert list(body)[:7] == ["mode", "prompt", "text", "rawText", "durationMs", "fileName", "fileSize"]
    assert set(body) - {*list(body)[:7]} == {"createdAt", "isPdf", "historyId", "layout", "pages"}
    assert (body["mode"], body["prompt"]) == ("gundam", DEFAULT)
    assert (body["text"], body["rawText"]) == ("# One", RAW)
    assert (body["fileName"], body["fileSize"], body["isPdf"]) == ("page.png", len(PNG), False)
    assert body["durationMs"] > 0 and round(body["durationMs"], 2) == body["durationMs"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", body["createdAt"])
    assert re.fullmatch(r"\d+-[0-9a-f]{8}", body["historyId"])


def test_the_layout_has_the_models_boxes(client: httpx.Client, service: FakeService) -> None:
    service.behave = reads_a_title
    body = send(client).json()
    box = {"index": 0, "absolute": [80, 80, 400, 120], "normalized": [100, 200, 500, 300]}
    items = [{"id": "title-0", "label": "title", "text": "# One", "boxes": [box]}]
    assert body["layout"] == {"width": 800, "height": 400, "items": items}
    [only] = body["pages"]
    assert only["layout"] == body["layout"]
    assert (only["pageIndex"], only["text"], only["rawText"], only["durationMs"]) == (0, "# One", RAW, 12.35)
    assert (only["status"], only["error"]) == ("ok", None)


def test_a_page_comes_as_a_picture_that_is_not_too_large(client: httpx.Client, service: FakeService) -> None:
    service.drawn = (drawn(4096, 1024),)
    [only] = send(client).json()["pages"]
    head, _, data = only["imageData"].partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/jpeg;base64" and image.size == (2048, 512)
    assert only["layout"] == {"width": 4096, "height": 1024, "items": []}, "the page's own size"


def test_boxes_stay_on_the_page_and_have_a_pixel(client: httpx.Client, service: FakeService) -> None:
    edge = Block(label="text", text="", box=(0, 0, 0, 0), normalized=(1.0, 0.5, 1.0, 0.5))
    service.behave = lambda _request, _cancel: result(page(0, "a", blocks=(edge,)))
    [item] = send(client).json()["layout"]["items"]
    assert item["boxes"][0]["absolute"] == [799, 200, 800, 201]


def test_the_numbers_are_those_that_the_model_said(client: httpx.Client, service: FakeService) -> None:
    said = [(0, 1, 998, 999), (7, 333, 500, 666), (123, 456, 789, 987)]
    raw = "\n\n".join(f"<|ref|>text<|/ref|><|det|>[[{a}, {b}, {c}, {d}]]<|/det|>\nWords" for a, b, c, d in said)
    cleaned = clean_page(raw, drawn(1190, 1684), Reading.LAYOUT)
    service.drawn = (drawn(1190, 1684),)
    service.behave = lambda _request, _cancel: result(page(0, cleaned.text, blocks=cleaned.blocks))
    layout = send(client).json()["layout"]
    boxes = [item["boxes"][0] for item in layout["items"]]
    assert [tuple(box["normalized"]) for box in boxes] == said
    assert boxes[1]["absolute"] == [round(n / 999 * side) for n, side in zip(said[1], (1190, 1684) * 2, strict=True)]
    assert [item["id"] for item in layout["items"]] == ["text-0", "text-1", "text-2"]


def test_boxes_without_a_picture_still_have_a_layout(client: httpx.Client, service: FakeService) -> None:
    service.behave, service.drawn = reads_a_title, (None,)
    body = send(client).json()
    assert (body["layout"]["width"], body["layout"]["height"]) == (800, 400)
    assert body["pages"][0]["imageData"] is None


def test_one_page_has_no_head_and_several_have(client: httpx.Client, service: FakeService) -> None:
    bad = page(2, "", PageStatus.FAILED, error=PageError(code="bad_pdf", message="Page 3 is damaged."))
    service.behave = lambda _request, _cancel: result(page(0, "one "), page(1, "two"), bad)
    service.drawn = (drawn(), drawn(index=1), None)
    body = send(client, picture("PDF")).json()
    assert body["text"] == "## 第 1 页\none \n\n## 第 2 页\ntwo\n\n## 第 3 页\n"
    assert body["rawText"] == "[Page 1]\none \n\n[Page 2]\ntwo\n\n[Page 3]\n"
    assert body["isPdf"] is True
    assert [p["pageIndex"] for p in body["pages"]] == [0, 1, 2]
    assert [p["text"] for p in body["pages"]] == ["one ", "two", ""]
    assert (body["pages"][2]["status"], body["pages"][2]["error"]) == ("failed", "Page 3 is damaged.")
    assert body["pages"][2]["imageData"] is None and body["pages"][2]["layout"] is None


def test_a_whole_pdf_is_drawn_up_to_a_limit(client: httpx.Client, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(*(page(i) for i in range(60)))
    service.drawn = tuple(drawn(4, 4, i) for i in range(60))
    pictures = [p["imageData"] is not None for p in send(client, picture("PDF")).json()["pages"]]
    assert pictures == [True] * 50 + [False] * 10


@pytest.mark.parametrize(
    ("sent", "echoed", "asked"),
    [
        ("", DEFAULT, Prompt(mode="document-gundam")),
        (" \n", DEFAULT, Prompt(mode="document-gundam")),
        (DEFAULT, DEFAULT, Prompt(mode="document-gundam")),
        (DEFAULT.replace("\n", "\r\n"), DEFAULT, Prompt(mode="document-gundam")),
        ("Free OCR.", "<image>\nFree OCR.", Prompt(mode="free-gundam")),
        ("Two\r\nlines\r\n", "<image>\nTwo\nlines", Prompt(text="<image>\nTwo\nlines", mode="gundam")),
        ("What is it?", "<image>\nWhat is it?", Prompt(text="<image>\nWhat is it?", mode="gundam")),
        ("Read <image> now", "Read <image> now", Prompt(text="Read <image> now", mode="gundam")),
    ],
)
def test_the_prompt_is_told_as_it_is_used(
    client: httpx.Client, service: FakeService, sent: str, echoed: str, asked: Prompt
) -> None:
    assert send(client, prompt=sent).json()["prompt"] == echoed
    [request] = service.requests
    assert (request.model, request.prompt) == (DEEPSEEK, asked)
    assert request.source == Upload(data=PNG, name="page.png") and request.dpi is None


@pytest.mark.parametrize("mode", [*MODES, "TINY", ""])
def test_every_mode_reaches_the_model(client: httpx.Client, service: FakeService, mode: str) -> None:
    expected = mode.lower() or "gundam"
    assert send(client, mode=mode).json()["mode"] == expected
    assert service.requests[0].prompt.mode == f"document-{expected}"


@pytest.mark.parametrize(
    ("model", "prompt", "asked"),
    [
        ("deepseek-ai/DeepSeek-OCR-2", "", Prompt(mode="document-tiny")),
        (f"openai+http://localhost:1/v1#{DEEPSEEK}", "", Prompt(mode="document-tiny")),
        ("builtin", "", Prompt()),
        ("builtin", "<image>\n<|grounding|>OCR this image.", Prompt()),
        ("got", "What is it?", Prompt(text="What is it?")),
        ("someone/their-model", "", Prompt(text=DEFAULT, mode="tiny")),
        ("someone/their-model", "What?", Prompt(text="<image>\nWhat?", mode="tiny")),
    ],
)
def test_what_each_model_is_asked(model: str, prompt: str, asked: Prompt) -> None:
    assert to_prompt("tiny", effective(prompt, Settings()), model) == asked


def test_a_model_that_only_its_files_tell_is_left_to_itself() -> None:
    assert to_prompt("gundam", DEFAULT, "someone/their-model") == Prompt()


def test_the_family_has_every_mode_that_is_named() -> None:
    for mode in MODES:
        for prompt in ("", "Free OCR.", "What is it?"):
            assert to_prompt(mode, effective(prompt, Settings()), DEEPSEEK).mode in FAMILY.modes
    assert FAMILY.modes["document-gundam"].prompt == Settings().deepseek_prompt


def test_the_fields_beyond_the_contract(client: httpx.Client, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(page(4, "five"), page(6, "seven"))
    answer = send(client, pages="5,7", password="secret", max_tokens="7")
    assert answer.json()["text"] == "## 第 5 页\nfive\n\n## 第 7 页\nseven"
    [request] = service.requests
    assert (request.page_range, request.password, request.overrides.max_new_tokens) == ("5,7", "secret", 7)
    [shown] = service.shown
    assert (shown.page_range, shown.password, shown.source) == ("5,7", "secret", request.source)


@pytest.mark.parametrize("field", ["image", "file"])
@pytest.mark.parametrize("media", ["image/png", "application/octet-stream", "text/plain"])
def test_the_bytes_decide_and_not_the_media_type(client: httpx.Client, field: str, media: str) -> None:
    assert client.post("/api/ocr", files={field: ("a", PNG, media)}).status_code == 200


@pytest.mark.parametrize("data", [b"plain words", b"PK\x03\x04zip", b"<svg></svg>"])
def test_other_media_are_refused(client: httpx.Client, service: FakeService, data: bytes) -> None:
    answer = send(client, data)
    assert (answer.status_code, answer.json()) == (400, {"detail": "仅支持图片或 PDF 文件。"})
    assert not service.requests


def test_too_large_is_413(client: httpx.Client, service: FakeService) -> None:
    most = 512 * 1024
    answer = send(client, PNG + b"x" * (most + 1 - len(PNG)))
    assert (answer.status_code, answer.json()) == (413, {"detail": "图片体积超过限制（0.5 MB）。"})
    assert not service.requests
    assert send(client, PNG + b"x" * (most - len(PNG))).status_code == 200


def test_an_unknown_mode_names_the_known_ones(client: httpx.Client, service: FakeService) -> None:
    answer = send(client, mode="huge")
    assert answer.status_code == 400 and not service.requests
    assert "huge" in answer.json()["detail"] and all(mode in answer.json()["detail"] for mode in MODES)
    assert answer.headers["x-ocr-mlx-error"] == "invalid_option"


def test_an_empty_file_is_400(client: httpx.Client) -> None:
    answer = send(client, b"")
    assert (answer.status_code, answer.json()) == (400, {"detail": "文件为空。"})
    assert answer.headers["x-ocr-mlx-error"] == "unsupported_media"


def test_unknown_fields_are_ignored(client: httpx.Client, service: FakeService) -> None:
    files = {"image": ("page.png", PNG), "thumbnail": ("small.png", b"x")}
    assert client.post("/api/ocr", files=files, data={"language": "en"}).status_code == 200
    assert service.requests[0].source == Upload(data=PNG, name="page.png")


def test_the_headers_tell_what_became_of_each_page(client: httpx.Client, service: FakeService) -> None:
    bad = page(1, "", PageStatus.FAILED, error=PageError(code="bad_pdf", message="Page 2 is damaged."))
    service.behave = lambda _request, _cancel: result(page(0, "one", PageStatus.TRUNCATED), bad)
    answer = send(client, picture("PDF"))
    assert (answer.status_code, answer.headers["x-ocr-mlx-status"]) == (200, "truncated,failed")
    assert (answer.headers["x-ocr-mlx-pages"], answer.headers["x-ocr-mlx-error"]) == ("2", "bad_pdf")
    assert [p["status"] for p in answer.json()["pages"]] == ["truncated", "failed"]


def test_a_full_queue_says_when_to_come_back(client: httpx.Client, service: FakeService) -> None:
    service.behave = raising(errors.QueueFull("Full.", seconds=16.2)).behave
    answer = send(client)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "17")


@pytest.mark.parametrize("sent", [{"files": {"other": b"x"}}, {"json": {"image": "x"}}])
def test_without_a_file_it_is_422(client: httpx.Client, sent: dict[str, object]) -> None:
    answer = client.post("/api/ocr", **sent)  # type: ignore[arg-type]
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["body", "image"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.BadImage("Cut off."), 400),
        (errors.BadPdf("Damaged."), 400),
        (errors.PdfLocked("Locked."), 400),
        (errors.InvalidOption("Two <image>."), 400),
        (errors.PromptTooLong("Long."), 400),
        (errors.SourceTooLarge("Many pixels."), 413),
        (errors.UnknownModel("No such."), 503),
        (errors.CheckpointIncomplete("Incomplete."), 503),
        (errors.OcrMlxError("Cannot start."), 503),
        (errors.OutOfMemory("No room."), 503),
        (errors.QueueFull("Full."), 429),
        (errors.TimedOut("Late."), 504),
        (errors.DecodeError("Broken."), 500),
    ],
)
def test_what_goes_wrong_has_its_status(
    client: httpx.Client, service: FakeService, error: OcrMlxError, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "ocr_mlx")
    service.behave = raising(error).behave
    answer = send(client)
    assert (answer.status_code, answer.json()) == (status, {"detail": str(error)})
    assert answer.headers["x-ocr-mlx-error"] == error.code
    assert [record.getMessage() for record in caplog.records] == [f"failed: {error.code}"]
    if isinstance(error, errors.PageError | errors.DecodeError):
        bad = page(0, "", PageStatus.FAILED, error=PageError(code=error.code, message=str(error)))
        service.behave = lambda _request, _cancel: result(bad)
        again = send(client)
        assert (again.status_code, again.json()) == (status, answer.json()), "as a failed page"


def test_what_nobody_expected_tells_nothing(client: httpx.Client, service: FakeService) -> None:
    service.behave = raising(RuntimeError("/home/secret")).behave
    answer = send(client)
    assert answer.status_code == 500 and "detail" in answer.json() and "secret" not in answer.text


def test_a_document_that_cannot_be_drawn_is_still_answered(client: httpx.Client, service: FakeService) -> None:
    class Undrawn(FakeService):
        def pictures(self, request: OcrRequest, *, dpi: float, most: int) -> Iterator[Page | None]:
            raise errors.ShuttingDown("Ending.")
            yield

    with serving(Undrawn(), Settings(history_ttl=0)) as url, httpx.Client(base_url=url) as other:
        body = send(other).json()
    assert (body["text"], body["historyId"], body["layout"]) == ("Hello", None, None)


def test_lone_surrogates_and_odd_names_still_give_an_answer(client: httpx.Client, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(page(0, "a\ud800b"), page(1))
    answer = client.post("/api/ocr", files={"image": ("../目录/é\ud7ff\n.png", PNG)})
    assert answer.status_code == 200 and "a?b" in answer.json()["text"] and "/" not in answer.json()["fileName"]


def header(origin: str) -> dict[str, str]:
    return {"Origin": origin}


def test_the_origin_list_is_for_these_routes(tmp_path: Path) -> None:
    friend, stranger = "http://localhost:5173", "https://evil.example"
    settings = Settings(deepseek_origins=(friend,), history_dir=tmp_path)
    with serving(FakeService(), settings) as url, httpx.Client(base_url=url) as client:
        allowed = client.get("/api/modes", headers=header(friend))
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, friend)
        assert "access-control-allow-credentials" not in allowed.headers
        posted = client.post("/api/ocr", files={"image": PNG}, headers=header(friend))
        assert (posted.status_code, posted.headers["access-control-allow-origin"]) == (200, friend)
        asked = client.options("/api/ocr", headers=header(friend) | {"Access-Control-Request-Method": "POST"})
        assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == friend
        refused = client.post("/api/ocr", files={"image": PNG}, headers=header(stranger))
        assert refused.status_code == 403 and "access-control-allow-origin" not in refused.headers
        assert client.get("/health", headers=header(friend)).status_code == 403, "only under /api/"
        assert client.get("/info", headers=header(friend)).status_code == 403


def test_a_star_lets_every_origin_in_without_credentials(tmp_path: Path) -> None:
    settings = Settings(deepseek_origins=("*",), history_dir=tmp_path)
    with serving(FakeService(), settings) as url, httpx.Client(base_url=url) as client:
        answer = client.post(
            "/api/ocr", files={"image": PNG}, headers=header("https://any.example") | {"Cookie": "a=b"}
        )
        assert answer.status_code == 200 and "access-control-allow-credentials" not in answer.headers
        assert answer.headers["access-control-allow-origin"] == "*"
        assert client.get("/health", headers=header("https://any.example")).status_code == 403
