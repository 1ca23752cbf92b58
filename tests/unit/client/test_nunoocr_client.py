"""The drop-in: names, requests and answers as Django projects know them."""

from __future__ import annotations

import base64
import inspect
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest

from ocr_mlx.client import DeepSeekOCRClient, DeepSeekOCRError, DjangoOCRService, Refused, nunoocr_client, try_out
from tests.unit.client.talking import Pieces, Server, chat, job

PNG = b"\x89PNG\r\n\x1a\n"
PDF = b"%PDF-1.7"
REFUSED = httpx.Response(400, json={"error": {"message": "This model only reads pages.", "code": "invalid_option"}})


def client(server: Server, **more: Any) -> DeepSeekOCRClient:
    return DeepSeekOCRClient("http://127.0.0.1:1/", "key", transport=httpx.MockTransport(server), **more)


def body(request: httpx.Request) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.content)
    return found


def test_the_constructor_is_the_old_one() -> None:
    made = DeepSeekOCRClient()
    assert (made.base_url, made.api_key, made.timeout) == ("http://localhost:8765", None, 60)
    assert made.chat_endpoint == "http://localhost:8765/v1/chat/completions"
    assert made.health_endpoint == "http://localhost:8765/health"
    assert (made.vision_api_key, made.vision_provider) == (None, "openai")
    assert DeepSeekOCRClient("http://h:1//", "k", 5).health_endpoint == "http://h:1/health"
    names = list(inspect.signature(DeepSeekOCRClient).parameters)
    assert names[:5] == ["base_url", "api_key", "timeout", "vision_api_key", "vision_provider"]


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (httpx.Response(200, text="OK!!!"), True),
        (httpx.Response(200, json={"status": "initializing"}), True),
        (httpx.Response(503), False),
        (httpx.ConnectError("no"), False),
        (httpx.ReadTimeout("no"), False),
    ],
)
def test_health(answer: httpx.Response | Exception, healthy: bool) -> None:
    server = Server(answer)
    assert client(server).health_check() is healthy
    assert server.requests[0].url.path == "/health"


def test_the_request_is_the_old_one() -> None:
    server = Server(chat("Hello"))
    found = client(server).extract_text(io.BytesIO(PNG), "image")
    assert found == {
        "text": "Hello",
        "confidence": 0.5,
        "metadata": {"tokens_used": 7, "model": "m", "statuses": ["ok"]},
    }
    sent = body(server.requests[0])
    assert server.requests[0].headers["authorization"] == "Bearer key"
    assert {name: sent[name] for name in ("model", "temperature", "max_tokens")} == {
        "model": "deepseek-ai/DeepSeek-OCR",
        "temperature": 0.0,
        "max_tokens": 2000,
    }
    system, user = sent["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"][0] == {"type": "input_text", "text": "<|grounding|>Convert the document to markdown."}
    uri = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert user["content"][1] == {"type": "input_image", "image_url": uri}


def test_words_for_plain_text_and_none_for_another_model() -> None:
    server = Server(chat(""))
    client(server).extract_text(PNG, preserve_formatting=False)
    assert body(server.requests[0])["messages"][1]["content"][0]["text"] == "Free OCR."
    server = Server(chat(""))
    client(server, model="builtin").extract_text(PNG)
    (message,) = body(server.requests[0])["messages"]
    assert [part["type"] for part in message["content"]] == ["input_image"]


def test_a_file_is_read_from_its_start_each_time() -> None:
    server, file = Server(chat("x")), io.BytesIO(PNG)
    for _ in range(2):
        client(server).extract_text(file)
    assert server.requests[0].content == server.requests[1].content


def test_a_server_that_does_not_say_its_confidence() -> None:
    answer = {"choices": [{"message": {"content": "x"}}], "usage": {"total_tokens": 3}, "model": "m"}
    found = client(Server(httpx.Response(200, json=answer))).extract_text(PNG)
    assert found["confidence"] is None and found["metadata"]["tokens_used"] == 3


def test_errors() -> None:
    for answer in (httpx.Response(500, text="boom"), httpx.ConnectError("no"), httpx.Response(200, text="<html>")):
        with pytest.raises(DeepSeekOCRError, match="OCR API request failed: "):
            client(Server(answer)).extract_text(PNG)
    with pytest.raises(DeepSeekOCRError) as caught:
        client(Server(httpx.Response(404, text="No model."))).extract_text(PNG)
    assert isinstance(caught.value.__cause__, Refused)
    with pytest.raises(DeepSeekOCRError, match="none"):
        client(Server(chat(""))).extract_text("/none/none.png")
    with pytest.raises(ValueError, match="auto, pdf, image"):
        client(Server(chat(""))).extract_text(PNG, "word")  # type: ignore[arg-type]


def test_a_prescription_from_a_general_model() -> None:
    server = Server(chat('{"doctor_name": "Dr. W\u00e9", "medications": []}'))
    found = client(server, model="qwen2-vl").extract_prescription_data(io.BytesIO(PNG))
    assert found["doctor_name"] == "Dr. W\u00e9"
    assert found["_metadata"] == {
        "tokens_used": 7,
        "model": "m",
        "raw_response": '{"doctor_name": "Dr. W\u00e9", "medications": []}',
    }
    sent = body(server.requests[0])
    schema = sent["response_format"]["json_schema"]["schema"]
    assert set(schema["required"]) == set(schema["properties"]) and sent["pages"] == "1"
    for field in (
        "doctor_code doctor_name doctor_specialty doctor_phone doctor_address patient_matricule patient_name "
        "prescription_date medications notes"
    ).split():
        assert field in schema["properties"] and field in sent["messages"][1]["content"][0]["text"]


def test_a_prescription_from_a_model_that_only_reads() -> None:
    server = Server(REFUSED, chat('Here it is:\n```json\n{"notes": "{a}"}\n```'))
    assert client(server).extract_prescription_data(PNG)["notes"] == "{a}"
    assert "response_format" not in body(server.requests[1])
    for answer, why in (
        (chat("No."), "general model"),
        (chat('{"a": 1', "length"), "cut off"),
        (chat("}{"), "no JSON"),
    ):
        with pytest.raises(DeepSeekOCRError, match=why):
            client(Server(REFUSED, answer)).extract_prescription_data(PNG)
    other = Server(httpx.Response(404, json={"error": {"message": "No such model", "code": "model_not_found"}}))
    with pytest.raises(DeepSeekOCRError, match="No such model"):
        client(other).extract_prescription_data(PNG)
    assert len(other.requests) == 1


def pages_of_two(first: str = "ok") -> Server:
    def page(number: int, status: str) -> bytes:
        failed = status == "failed"
        told = {"index": number - 1, "page_number": number, "status": status, "text": "" if failed else "one"}
        more = {"confidence": None if failed else 0.25, "error": "The page is damaged." if failed else None}
        return f"event: page\ndata: {json.dumps(told | more)}\nid: {number}\n\n".encode()

    spent = {"page_number": 1, "metadata": {"prompt_tokens": 5, "completion_tokens": 7}}
    result = {"text": "one", "metadata": {"pages": [spent]}}
    return Server(
        httpx.Response(202, json={"job_id": "j", "message": ""}),
        httpx.Response(200, json=job("completed", 2, 2, result=result)),
        Pieces(page(1, first) + page(2, "failed") + b'event: done\ndata: {"status": "completed"}\n\n'),
        httpx.Response(204),
    )


def test_pages(tmp_path: Path) -> None:
    path = tmp_path / "two.pdf"
    path.write_bytes(PDF)
    server = pages_of_two()
    found = client(server).extract_text_multi_page(str(path), preserve_formatting=False)
    assert found["full_text"] == "one\n\n--- Page Break ---\n\n" and found["total_pages"] == 2
    assert [(page["page_number"], page["text"]) for page in found["pages"]] == [(1, "one"), (2, "")]
    assert found["pages"][1]["metadata"]["error"] == "The page is damaged."
    assert {"tokens_used", "model"} <= set(found["pages"][0]["metadata"])
    assert b"Free OCR." in server.requests[0].content and b"two.pdf" in server.requests[0].content


def test_the_text_of_a_pdf_is_that_of_all_its_pages() -> None:
    server = pages_of_two()
    found = client(server).extract_text(io.BytesIO(PDF), "pdf")
    assert found["text"] == "one" and found["confidence"] == 0.25
    told = {"tokens_used": 12, "model": "deepseek-ai/DeepSeek-OCR", "statuses": ["ok", "failed"]}
    assert found["metadata"] == told


def test_pages_of_which_none_can_be_read() -> None:
    with pytest.raises(DeepSeekOCRError, match="OCR API request failed: The page is damaged"):
        client(pages_of_two("failed")).extract_text(PDF)


def test_pages_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DeepSeekOCRError, match="OCR API request failed: "):
        client(Server(httpx.ConnectError("no"))).extract_text_multi_page(tmp_path / "none.pdf")


@pytest.fixture
def django(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    settings = SimpleNamespace()
    conf = ModuleType("django.conf")
    conf.settings = settings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "django", ModuleType("django"))
    monkeypatch.setitem(sys.modules, "django.conf", conf)
    return settings


def test_the_service_reads_djangos_settings(django: SimpleNamespace) -> None:
    made = DjangoOCRService().client
    assert (made.base_url, made.api_key, made.model) == ("http://localhost:8765", None, "deepseek-ai/DeepSeek-OCR")
    assert made.timeout == 60
    django.OCR_SERVICE_URL, django.OCR_SERVICE_API_KEY, django.OCR_SERVICE_MODEL = "http://ocr:8000/", "k", "qwen2-vl"
    django.OCR_SERVICE_TIMEOUT = 300
    made = DjangoOCRService().client
    assert (made.base_url, made.api_key, made.model, made.timeout) == ("http://ocr:8000", "k", "qwen2-vl", 300)


def test_the_service_reads_an_uploaded_file(django: SimpleNamespace) -> None:
    class Uploaded(io.BytesIO):
        name = "Scan.PDF"

    service, server = DjangoOCRService(), Server(chat('{"notes": ""}'))
    service.client = client(server)
    assert service.is_available()
    assert service.extract_from_uploaded_file(Uploaded(PNG))["text"] == '{"notes": ""}'
    assert "_metadata" in service.extract_from_uploaded_file(Uploaded(PDF), extract_structured=True)


def test_without_django_only_the_service_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "django", None)
    monkeypatch.delitem(sys.modules, "django.conf", raising=False)
    with pytest.raises(ModuleNotFoundError):
        DjangoOCRService()


def test_one_import_line_replaces_the_file() -> None:
    assert nunoocr_client.DeepSeekOCRClient is DeepSeekOCRClient and nunoocr_client.DeepSeekOCRError is DeepSeekOCRError


def run(server: Server, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    def made(url: str, api_key: str | None, timeout: float, *, model: str) -> DeepSeekOCRClient:
        return DeepSeekOCRClient(url, api_key, timeout, model=model, transport=httpx.MockTransport(server))

    monkeypatch.setattr(try_out, "DeepSeekOCRClient", made)
    return try_out.main(arguments)


def test_the_script_checks_health(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Server(httpx.Response(200)), monkeypatch) == 0
    assert "http://localhost:8765 answers" in capsys.readouterr().out
    assert run(Server(httpx.ConnectError("no")), monkeypatch, "--health-check", "--url", "http://h:1") == 1
    assert "http://h:1" in capsys.readouterr().err


def test_the_script_reads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "a.pdf"
    file.write_bytes(PDF)
    for arguments in ((str(file),), ("--extract-text", str(file))):
        assert run(pages_of_two(), monkeypatch, *arguments) == 0
        assert capsys.readouterr().out == "one\n"
    assert run(Server(chat('{"notes": "\u00e9"}')), monkeypatch, "--extract-data", str(file)) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == "\u00e9"
    assert run(pages_of_two(), monkeypatch, "--multi-page", str(file)) == 0
    assert capsys.readouterr().out == "--- Page 1 of 2 ---\none\n\n--- Page 2 of 2 ---\n\n"
    assert run(Server(httpx.Response(500, text="boom")), monkeypatch, str(file)) == 1
    assert "boom" in capsys.readouterr().err
    assert run(Server(chat("")), monkeypatch, str(tmp_path / "none.png")) == 1


def test_the_script_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ocr_mlx.client", "--url", "http://127.0.0.1:1"], capture_output=True, timeout=60
    )
    assert done.returncode == 1 and b"No server answers" in done.stderr
    done = subprocess.run([sys.executable, "-m", "ocr_mlx.client", "--nonsense"], capture_output=True, timeout=60)
    assert done.returncode == 2


def test_a_stream_that_cannot_go_back_is_read_from_where_it_is() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation("seek")

    assert client(Server(chat("read"))).extract_text(Pipe(PNG), "image")["text"] == "read"
