"""Contract 1 over a real socket: `POST /ocr`, JSON in, text out."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from PIL import Image

from ocr_mlx.domain import UNSET, OcrRequest, OcrResult, PageError, PageStatus
from ocr_mlx.errors import QueueFull, UnknownModel
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, names_the_media, page, result, serving

TEXT = "text/plain; charset=utf-8"


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(out, kind)
    return out.getvalue()


def uri(media: str, data: bytes) -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


DATA = {"filename": uri("image/png", b"x")}


def test_success_is_plain_text_with_honest_headers(client: httpx.Client, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(page(0, "Grüße"), page(1, "two", PageStatus.TRUNCATED))
    answer = client.post("/ocr", json=DATA)
    assert (answer.status_code, answer.headers["content-type"]) == (200, TEXT)
    assert answer.text == "Grüße\n\ntwo"
    assert answer.headers["x-ocr-mlx-pages"] == "2"
    assert answer.headers["x-ocr-mlx-status"] == "ok,truncated"
    assert answer.headers["x-ocr-mlx-instance"] == "test-instance"


@pytest.mark.parametrize(
    ("media", "kind"),
    [
        ("image/png", "PNG"),
        ("image/jpeg", "JPEG"),
        ("image/webp", "WEBP"),
        ("application/pdf", "PDF"),
        ("image/x-png", "PNG"),
        ("image/svg+xml", "JPEG"),
        ("", "PNG"),
    ],
)
def test_data_uris(client: httpx.Client, service: FakeService, media: str, kind: str) -> None:
    service.behave = names_the_media
    assert client.post("/ocr", json={"filename": uri(media, picture(kind))}).text == kind


@pytest.mark.parametrize("form", ["file://{}", "file:///{}"])
def test_file_addresses(client: httpx.Client, service: FakeService, tmp_path: Path, form: str) -> None:
    service.behave = names_the_media
    file = tmp_path / "a page.png"
    file.write_bytes(picture("PNG"))
    assert client.post("/ocr", json={"filename": form.format(file)}).text == "PNG"


def test_web_addresses(client: httpx.Client, service: FakeService, tmp_path: Path) -> None:
    service.behave = names_the_media
    (tmp_path / "page.jpg").write_bytes(picture("JPEG"))
    handler = partial(type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}), directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        thread = threading.Thread(target=files.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{files.server_port}/page.jpg"
            assert client.post("/ocr", json={"filename": address}).text == "JPEG"
        finally:
            files.shutdown()
            thread.join()


def test_nothing_said_leaves_everything_to_the_server(client: httpx.Client, service: FakeService) -> None:
    assert client.post("/ocr", json=DATA).status_code == 200
    [request] = service.requests
    assert (request.model, request.padding, request.keep_alive) == ("facebook/nougat-small", 0, None)
    assert request.overrides.temperature is UNSET and request.overrides.repetition_penalty is UNSET


def test_everything_said_arrives(client: httpx.Client, service: FakeService) -> None:
    said = DATA | {
        "model": "facebook/nougat-base",
        "temperature": "0.5",
        "top_p": 0.9,
        "repetition_penalty": 1.0,
        "padding": -5,
        "pages": "1-2",
        "password": "secret",
        "max_tokens": 7,
        "seed": 3,
        "no_repeat_ngram": 20,
        "ngram_window": 90,
        "stop": ["END"],
        "keep_alive": 60,
        "unknown": {"is": "ignored"},
    }
    assert client.post("/ocr", json=said).status_code == 200
    [request] = service.requests
    assert request.model == "facebook/nougat-base"
    assert (request.overrides.temperature, request.overrides.top_p) == (0.5, 0.9)
    assert (request.overrides.repetition_penalty, request.overrides.seed) == (1.0, 3)
    assert (request.overrides.no_repeat_ngram, request.overrides.ngram_window) == (20, 90)
    assert request.overrides.stop == ("END",)
    assert (request.overrides.max_new_tokens, request.padding, request.page_range) == (7, -5, "1-2")
    assert (request.password, request.keep_alive) == ("secret", 60.0)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("temperature", 1.5, "less_than_equal"),
        ("temperature", -0.1, "greater_than_equal"),
        ("top_p", 2, "less_than_equal"),
        ("repetition_penalty", 0.9, "greater_than_equal"),
        ("padding", "wide", "int_parsing"),
        ("ngram_window", -1, "greater_than_equal"),
        ("stop", "END", "list_type"),
        ("model", None, "string_type"),
        ("filename", 5, "string_type"),
    ],
)
def test_out_of_range_is_422(client: httpx.Client, service: FakeService, field: str, value: object, kind: str) -> None:
    answer = client.post("/ocr", json=DATA | {field: value})
    assert answer.status_code == 422
    [violation] = answer.json()["detail"]
    assert (violation["type"], violation["loc"][:2]) == (kind, ["body", field])
    assert ("input" in violation) is not isinstance(value, str) and violation.get("input", value) == value
    assert not service.requests


def test_the_422_of_the_contract_to_the_letter(client: httpx.Client) -> None:
    [violation] = client.post("/ocr", json={"temperature": 1.5}).json()["detail"]
    assert violation == {
        "type": "less_than_equal",
        "loc": ["body", "temperature"],
        "msg": "Input should be less than or equal to 1",
        "input": 1.5,
        "ctx": {"le": 1.0},
    }


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "kind", "loc"),
    [(b"{nope", "json_invalid", ["body", 1]), (b"", "missing", ["body"])],
)
def test_no_json_is_422(client: httpx.Client, body: bytes, kind: str, loc: list[object]) -> None:
    answer = client.post("/ocr", content=body, headers=JSON)
    assert answer.status_code == 422
    assert [(v["type"], v["loc"]) for v in answer.json()["detail"]] == [(kind, loc)]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_422(client: httpx.Client, number: str) -> None:
    answer = client.post("/ocr", content=f'{{"repetition_penalty": {number}}}', headers=JSON)
    assert answer.status_code == 422 and "input" not in answer.json()["detail"][0]


def test_a_violation_never_echoes_a_document_or_a_password(client: httpx.Client) -> None:
    long = "A" * 1000
    answer = client.post("/ocr", json={"filename": [long], "password": 271828, "temperature": long})
    assert answer.status_code == 422 and long not in answer.text and "271828" not in answer.text


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "", "json"])
def test_other_bodies_are_415(client: httpx.Client, service: FakeService, kind: str) -> None:
    answer = client.post("/ocr", content=json.dumps(DATA), headers={"Content-Type": kind} if kind else {})
    assert (answer.status_code, answer.headers["content-type"]) == (415, TEXT)
    assert "application/json" in answer.text and not service.requests


def test_json_with_a_charset_is_json(client: httpx.Client) -> None:
    answer = client.post("/ocr", content=json.dumps(DATA), headers={"Content-Type": "Application/JSON; charset=utf-8"})
    assert answer.status_code == 200


def test_get_is_405(client: httpx.Client) -> None:
    answer = client.get("/ocr")
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})


@pytest.mark.parametrize(
    ("filename", "status", "words"),
    [
        ("", 400, "empty"),
        ("page.png", 400, "no address"),
        ("ftp://host/page.png", 400, "no address"),
        ("file:///no/such/page.png", 404, "no file"),
        ("data:image/png;base64,a", 400, "damaged"),
        ("data:image/png;base64,", 400, "empty"),
        ("http://", 400, "malformed"),
    ],
)
def test_a_source_that_cannot_be_had_says_why(
    client: httpx.Client, service: FakeService, filename: str, status: int, words: str
) -> None:
    service.behave = names_the_media
    answer = client.post("/ocr", json={"filename": filename})
    assert (answer.status_code, answer.headers["content-type"]) == (status, TEXT)
    assert words in answer.text and answer.headers["x-ocr-mlx-error"]


def test_no_field_at_all_is_no_success(client: httpx.Client) -> None:
    answer = client.post("/ocr", json={})
    assert answer.status_code == 400 and answer.text


def raising(error: Exception) -> FakeService:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        raise error

    return FakeService(behave=behave)


def test_an_unknown_model_is_404_in_plain_text() -> None:
    with serving(raising(UnknownModel("There is no model 'x'.", hint="Try y."))) as url:
        answer = httpx.post(f"{url}/ocr", json=DATA)
    assert (answer.status_code, answer.headers["content-type"]) == (404, TEXT)
    assert answer.text == "There is no model 'x'. Try y."


def test_a_full_queue_says_when_to_come_back() -> None:
    with serving(raising(QueueFull("Full."))) as url:
        answer = httpx.post(f"{url}/ocr", json=DATA)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0


def test_what_nobody_expected_is_a_500_without_its_message() -> None:
    with serving(raising(RuntimeError("/home/secret"))) as url:
        answer = httpx.post(f"{url}/ocr", json=DATA)
    assert answer.status_code == 500 and answer.text and "secret" not in answer.text


def failed(index: int = 0, code: str = "bad_image") -> object:
    return page(index, "", PageStatus.FAILED, error=PageError(code=code, message=f"Page {index} is bad."))


def test_a_document_of_failed_pages_is_an_error_with_the_first_reason(
    client: httpx.Client, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "ocr_mlx")
    service.behave = lambda _request, _cancel: result(failed(0, "bad_pdf"), failed(1))
    answer = client.post("/ocr", json=DATA)
    assert (answer.status_code, answer.text) == (422, "Page 0 is bad.")
    assert answer.headers["x-ocr-mlx-status"] == "failed,failed"
    assert answer.headers["x-ocr-mlx-error"] == "bad_pdf"
    assert [record.getMessage() for record in caplog.records] == ["failed: bad_pdf"]


def test_some_failed_pages_leave_the_text_of_the_others(client: httpx.Client, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(failed(0), page(1, "good"))
    answer = client.post("/ocr", json=DATA)
    assert (answer.status_code, answer.text) == (200, "good")
    assert answer.headers["x-ocr-mlx-status"] == "failed,ok"


def test_blank_pages_are_an_empty_success(client: httpx.Client, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(page(0, "", PageStatus.BLANK))
    answer = client.post("/ocr", json=DATA)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"", TEXT)


@pytest.mark.parametrize("status", [PageStatus.LOOP_STOPPED, PageStatus.TRUNCATED])
def test_only_blank_pages_may_be_empty(client: httpx.Client, service: FakeService, status: PageStatus) -> None:
    service.behave = lambda _request, _cancel: result(page(0, "", PageStatus.BLANK), page(1, "", status))
    answer = client.post("/ocr", json=DATA)
    assert (answer.status_code, answer.headers["content-type"]) == (500, TEXT)
    assert "left no text" in answer.text and answer.headers["x-ocr-mlx-status"] == f"blank,{status}"


def test_lone_surrogates_still_give_an_answer(client: httpx.Client, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(page(0, "a\ud800b"))
    assert client.post("/ocr", json=DATA).text == "a?b"


def test_many_pages_are_counted(client: httpx.Client, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(*(page(i) for i in range(500)), failed(500))
    assert client.post("/ocr", json=DATA).headers["x-ocr-mlx-status"] == "ok=500;failed=1"


def test_a_body_over_the_limit_is_413_whether_announced_or_not() -> None:
    settings = Settings(max_file_mb=1)
    body = b'{"filename": "' + b"x" * settings.max_body_bytes + b'"}'
    with serving(FakeService(), settings) as url:
        announced = httpx.post(f"{url}/ocr", content=body, headers=JSON)
        chunks = (body[i : i + 65536] for i in range(0, len(body), 65536))
        chunked = httpx.post(f"{url}/ocr", content=chunks, headers=JSON)
    assert (announced.status_code, chunked.status_code) == (413, 413)
    assert "OCR_MLX_MAX_FILE_MB" in announced.text and announced.text == chunked.text


def test_a_client_that_leaves_stops_the_work() -> None:
    entered, cancelled = threading.Event(), threading.Event()

    def behave(_request: OcrRequest, cancel: threading.Event) -> OcrResult:
        entered.set()
        if cancel.wait(10):
            cancelled.set()
        return result(page(status=PageStatus.CANCELLED))

    with serving(FakeService(behave=behave)) as url:
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps(DATA).encode()
        with socket.create_connection((host, int(port))) as sock:
            head = f"POST /ocr HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert entered.wait(10)
        assert cancelled.wait(10)


def test_health_answers_while_documents_are_read_and_the_drain_ends_them() -> None:
    entered = threading.Event()

    def behave(_request: OcrRequest, cancel: threading.Event) -> OcrResult:
        entered.set()
        assert cancel.wait(10)
        return result(page(status=PageStatus.CANCELLED))

    answers: list[httpx.Response] = []
    with serving(FakeService(behave=behave), Settings(drain=0.2)) as url:
        asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/ocr", json=DATA)))
        asking.start()
        assert entered.wait(10)
        assert httpx.get(f"{url}/livez").status_code == 200
    asking.join(10)
    assert [(a.status_code, "shutting down" in a.text) for a in answers] == [(503, True)]


def test_a_body_that_cannot_be_parsed_says_what_would_be_right(client: httpx.Client) -> None:
    answer = client.post("/ocr", content=b"[" * 100_000, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422) and "JSON" in answer.text


def test_a_name_beyond_all_paths_is_no_model(client: httpx.Client) -> None:
    answer = client.post("/ocr", json=DATA | {"model": "x" * 5000})
    assert answer.status_code == 404 and len(answer.text) < 500


@pytest.mark.parametrize(
    ("model", "told"),
    [("/home/me/models/own-4bit/", "own-4bit"), ("./own", "own"), ("org/name", "org/name"), ("builtin", "builtin")],
)
def test_answers_do_not_tell_where_a_model_lies(
    client: httpx.Client, service: FakeService, model: str, told: str
) -> None:
    service.behave = lambda _request, _cancel: OcrResult(model=model, pages=(page(),), seconds=0.1)
    assert client.post("/ocr", json=DATA).headers["x-ocr-mlx-model"] == told
    lines = client.post("/ocr", json=DATA, headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert {event["model"] for event in map(json.loads, lines) if "model" in event} == {told}
