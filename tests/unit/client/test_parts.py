"""The parts that need no server: documents, events, signatures, finding the local server, and what an import costs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ocr_mlx.client import AsyncClient, Client, DeepSeekOCRClient, DeepSeekOCRError, OcrClientError, verify_webhook
from ocr_mlx.client.calls import connection
from ocr_mlx.client.documents import Bytes, open_document
from ocr_mlx.client.locate import DEFAULT_URL, _state_folder, local_server
from ocr_mlx.client.sse import Message, Parser
from ocr_mlx.endpoint import uvicorn_config
from ocr_mlx.jobs.webhook import signature
from ocr_mlx.settings import Settings
from ocr_mlx.utils import records


def test_documents_are_opened_once_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.JPG"
    path.write_bytes(b"\xff\xd8\xff")
    for source in (path, str(path)):
        document = open_document(source)
        assert isinstance(document, Bytes) and (document.name, document.media_type) == ("a.JPG", "image/jpeg")
    with path.open("rb") as file:
        opened = open_document(file)
    assert isinstance(opened, Bytes) and opened.name == "a.JPG"
    pdf = open_document(b"\n%PDF-1.4")
    assert isinstance(pdf, Bytes) and pdf.is_pdf and pdf.media_type == "application/pdf"


def test_what_is_no_document_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_document(tmp_path / "none.png")
    with pytest.raises(ValueError, match="empty"):
        open_document(b"")
    with pytest.raises(TypeError, match="'rb'"):
        open_document(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int"):
        open_document(3)  # type: ignore[arg-type]


def test_events_are_put_together() -> None:
    parser = Parser()
    found = list(parser.feed(b": hello\nretry: 250\nevent: page\nid: 7\ndata: a\ndata:b\n\ndata: c\r\n\r\nid: 8\n\nda"))
    assert found == [Message(event="page", data="a\nb", id="7"), Message(data="c", id="7")]
    assert parser.retry == 0.25
    assert list(parser.feed(b"ta: d\n\n")) == [Message(data="d", id="8")]


def test_a_webhook_is_verified_as_the_server_signs_it() -> None:
    body, secret, now = b'{"job_id": "j"}', "s3cret", 1_700_000_000
    signed = {"X-OCR-MLX-Timestamp": str(now), "X-OCR-MLX-Signature": signature(secret, str(now), body)}
    assert verify_webhook(body, signed, secret, now=now + 5)
    django = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in signed.items()} | {
        "wsgi.version": (1, 0)
    }
    assert verify_webhook(body, django, secret, now=now)  # type: ignore[arg-type]
    assert not verify_webhook(body + b" ", signed, secret, now=now)
    assert not verify_webhook(body, signed, "other", now=now)
    assert not verify_webhook(body, signed, secret, now=now + 301)
    assert not verify_webhook(body, signed | {"X-OCR-MLX-Timestamp": str(now + 1)}, secret, now=now)
    assert not verify_webhook(body, {}, secret, now=now)
    assert not verify_webhook(body, signed | {"X-OCR-MLX-Signature": "sha256=\u20ac"}, secret, now=now)
    with pytest.raises(ValueError, match="empty"):
        verify_webhook(body, signed, "")


class Living(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-OCR-MLX-Instance", "mine")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_the_running_server_is_found_by_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_MLX_STATE_DIR", str(tmp_path))
    assert local_server() == (DEFAULT_URL, None)
    with ThreadingHTTPServer(("127.0.0.1", 0), Living) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            port, url = server.server_port, f"http://127.0.0.1:{server.server_port}"
            mine = records.write(tmp_path, {"port": port, "url": url, "instance": "mine"})
            dead = records.write(tmp_path, {"port": 1, "url": "http://127.0.0.1:1", "instance": "dead"})
            (tmp_path / "server-9.json").write_text("{")
            os.utime(mine, (1, 1))
            os.utime(dead, (2, 2))
            assert local_server() == (url, None)
            with Client() as client:
                assert client.base_url == url
            assert AsyncClient().base_url == url
            newer = {"port": port, "url": f"http://localhost:{port}", "instance": "mine"}
            (tmp_path / "server-3.json").write_text(json.dumps(newer))
            assert local_server() == (newer["url"], None)
            (tmp_path / "server-3.json").write_text(json.dumps(newer | {"token": "for this run"}))
            assert local_server() == (newer["url"], "for this run")
            with Client() as client:
                assert client._http.headers["authorization"] == "Bearer for this run"
            with Client(token="mine") as client:
                assert client._http.headers["authorization"] == "Bearer mine"
            with Client(str(newer["url"])) as client:
                assert "authorization" not in client._http.headers
            (tmp_path / "server-3.json").unlink()
            mine.write_text(json.dumps({"port": port, "url": url, "instance": "an older one"}))
            assert local_server() == (DEFAULT_URL, None)
        finally:
            server.shutdown()
            thread.join()


def test_the_state_folder_is_the_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert _state_folder() == records.state_folder(None)
    monkeypatch.setenv("OCR_MLX_STATE_DIR", str(tmp_path))
    assert _state_folder() == tmp_path


@pytest.mark.parametrize("address", ["localhost:7771", "ftp://host", "http://host:port", "http://", "host"])
def test_what_is_no_address_says_so(address: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(OcrClientError, match="http://host:port"):
            kind(address)
    client = DeepSeekOCRClient(address)
    assert not client.health_check()
    with pytest.raises(DeepSeekOCRError, match="no address"):
        client.extract_text(b"\x89PNG")


def test_hidden_files_get_a_name_that_is_taken(tmp_path: Path) -> None:
    path = tmp_path / ".scan.pdf"
    path.write_bytes(b"%PDF-1")
    opened = open_document(path)
    assert isinstance(opened, Bytes) and opened.name == "scan.pdf"


def test_no_proxy_is_asked_for_this_machine() -> None:
    assert connection("http://localhost:8765/", None, None)["trust_env"] is False
    assert connection("http://[::1]:8765", None, None)["trust_env"] is False
    assert connection("https://ocr.example.org", None, None)["trust_env"] is True


def test_an_idle_connection_is_dropped_before_the_server_drops_it() -> None:
    kept = connection("http://127.0.0.1:1", None, None)["limits"].keepalive_expiry
    server = uvicorn_config(None, Settings(), "x")
    assert 0 < kept < server.timeout_keep_alive


def test_importing_costs_nothing_of_the_engine() -> None:
    code = (
        "import sys, ocr_mlx.client\n"
        "heavy = {'mlx', 'fastapi', 'pydantic', 'numpy', 'PIL', 'starlette', 'uvicorn', 'typer', 'django'}\n"
        "own = [n for n in sys.modules if n.startswith('ocr_mlx') and not n.startswith('ocr_mlx.client')]\n"
        "print(sorted(heavy & {n.split('.')[0] for n in sys.modules}), own)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[] ['ocr_mlx']", done.stderr
