"""Contract 1 as its users have it: the real program with the README's own lines, and as the desktop app calls it."""

from __future__ import annotations

import base64
import io
import json
import shlex
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from PIL import Image
from scripts.builtin.score import error_rate

from tests.process.curl import curl, needs_curl
from tests.process.hub import hub_with
from tests.process.program import Start

pytestmark = pytest.mark.process
SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "page.png"
TEXT = SAMPLE.with_suffix(".txt").read_text("utf-8").strip()
README = """curl -X POST http://127.0.0.1:7771/ocr \\
  -H "Content-Type: application/json" \\
  -d '{"filename":"file:///path/to/image.png"}'"""
COMMAND = "python -m ocr_mlx.cli --input file:///path/to/image.png --model builtin"
PLACE = "/path/to/image.png"
PROBE = {"User-Agent": "ureq/2.12.1"}
"""The app's own requests: is it there, and end."""
APP = {"User-Agent": "tauri-plugin-http/2.4.3", "Origin": "null", "Accept": "*/*"}
"""Those of its pages, which Tauri's HTTP client sends for them."""


def line(text: str) -> str:
    """A README's line, on one line."""
    return text.replace("\\\n", " ")


@needs_curl
def test_the_readmes_lines(start: Start, tmp_path: Path) -> None:
    shutil.copy(SAMPLE, tmp_path / "page.png")
    env = hub_with(tmp_path / "hub", "facebook/nougat-small")
    port = (7771, start("serve", "--contract", "ocr_mlx", command=("-m", "ocr_mlx"), **env).ready()["port"])
    assert curl("curl -s http://127.0.0.1:7771/health", port=port) == "OK!!!"
    body = {
        "filename": f"file://{tmp_path}/page.png",
        "model": "facebook/nougat-small",
        "temperature": 0.0,
        "top_p": 0.0,
        "repetition_penalty": 1.9,
        "max_tokens": 12,
    }
    sent = f"curl -s -i -X POST http://127.0.0.1:7771/ocr -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    head, _, text = curl(sent, port=port).replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 200") and "content-type: text/plain; charset=utf-8" in head.lower()
    assert "x-ocr-mlx-model: facebook/nougat-small" in head.lower() and text


@needs_curl
def test_the_readmes_line_with_real_text(start: Start) -> None:
    record = start("serve", "--contract", "ocr_mlx", command=("-m", "ocr_mlx"), OCR_MLX_MODEL="builtin").ready()
    assert curl(line(README).replace(PLACE, str(SAMPLE)), port=(7771, record["port"])).strip() == TEXT


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    Image.open(SAMPLE).convert("L").save(out, kind, quality=95)
    return out.getvalue()


@pytest.mark.slow
def test_every_form_of_address(start: Start, tmp_path: Path) -> None:
    for kind in ("jpeg", "webp"):
        (tmp_path / f"page.{kind}").write_bytes(encoded(kind))
    files = partial(type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}), directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/page.jpeg"
            near = start("--port", "0", OCR_MLX_MODEL="builtin", OCR_MLX_FETCH_PRIVATE="1").ready()["url"]
            webp = f"data:image/webp;base64,{base64.b64encode(encoded('webp')).decode()}"
            for filename in (address, webp, f"file://localhost{tmp_path}/page.webp"):
                read = httpx.post(f"{near}/ocr", json={"filename": filename}, timeout=60)
                assert (read.status_code, read.headers["content-type"]) == (200, "text/plain; charset=utf-8"), read.text
                assert error_rate([TEXT], [read.text.strip()]) <= 0.02, read.text
            far = start("--port", "0").ready()["url"]
            refused = httpx.post(f"{far}/ocr", json={"filename": address, "model": "builtin"}, timeout=60)
            assert refused.status_code == 403 and "OCR_MLX_FETCH_PRIVATE" in refused.text
        finally:
            server.shutdown()
            thread.join()


def test_what_the_desktop_app_does(start: Start) -> None:
    """Started without an argument, asked for its health, a page by each of its two models' forms, told to end."""
    program = start(OCR_MLX_REMOTE_HOSTS="engine.invalid")
    url = program.ready()["url"]
    page = {"filename": f"file:///{SAMPLE}", "model": "builtin"}
    with httpx.Client(base_url=url, timeout=60) as client:
        health = client.get("/health", headers=PROBE)
        assert (health.status_code, health.content) == (200, b"OK!!!")
        read = client.post("/ocr", json=page | {"temperature": 0, "top_p": 0, "repetition_penalty": 1}, headers=APP)
        assert (read.status_code, read.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert read.text.strip() == TEXT
        asked = page | {"endpoint_url": "http://localhost:1234/v1/chat/completions", "api_key": "", "max_tokens": 1000}
        refused = client.post("/llm/ocr", json=asked, headers=APP)
        assert refused.status_code == 403 and "OCR_MLX_REMOTE_HOSTS" in refused.json()["detail"]
        assert client.get("/shutdown", headers=APP).status_code == 403, "a page may not"
        assert client.get("/shutdown", headers=PROBE).text == "Shutting down..."
    assert program.ends() == 0


@needs_curl
@pytest.mark.slow
def test_real_words_from_a_data_uri(start: Start) -> None:
    port = (7771, start("serve", "--contract", "ocr_mlx", command=("-m", "ocr_mlx")).ready()["port"])
    uri = f"data:image/png;base64,{base64.b64encode(SAMPLE.read_bytes()).decode()}"
    body = json.dumps({"filename": uri, "model": "builtin"})
    sent = f"curl -s -X POST http://127.0.0.1:7771/ocr -H 'Content-Type: application/json' -d '{body}'"
    assert curl(sent, port=port).strip() == TEXT


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "--output {} --temperature 0.0 --top_p 0.0 --repetition_penalty 1.0"])
def test_the_readmes_command(tmp_path: Path, more: str) -> None:
    out = tmp_path / "text.txt"
    command = shlex.split(f"{COMMAND.replace(PLACE, str(SAMPLE))} {more.format(out)}")
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == TEXT, "printed too"
    assert not more or out.read_text("utf-8").strip() == TEXT
