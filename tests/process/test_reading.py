"""The real program reads real pictures with the built-in model: command line, HTTP, Python."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image
from scripts.builtin.score import error_rate

from tests.process.program import Start

pytestmark = pytest.mark.process
EXAMPLES = Path(__file__).parents[2] / "examples"
PAGE = EXAMPLES / "page.png"
TEXT = (EXAMPLES / "page.txt").read_text(encoding="utf-8").strip()
ENOUGH = 0.02


def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)  # type: ignore[call-overload,no-any-return]


def is_the_page(text: str) -> bool:
    rate = error_rate([TEXT], [text.strip()])
    assert rate <= ENOUGH, (rate, text)
    return True


def three_pages() -> bytes:
    page, blank = Image.open(PAGE).convert("L"), Image.new("L", (400, 300), 255)
    out = io.BytesIO()
    page.save(out, "PDF", save_all=True, append_images=[blank, page], resolution=100)
    return out.getvalue()


def test_the_command_line_prints_the_text_and_nothing_else() -> None:
    done = run("ocr_mlx", "read", str(PAGE), "--model", "builtin")
    assert done.returncode == 0 and done.stderr == ""
    assert is_the_page(done.stdout)


@pytest.mark.slow
def test_the_older_command_line_writes_its_file(tmp_path: Path) -> None:
    out = tmp_path / "text.txt"
    done = run("ocr_mlx.cli", "--input", str(PAGE), "--model", "builtin", "--output", str(out), "--top_p", "0.0")
    assert done.returncode == 0, done.stderr
    assert is_the_page(out.read_text(encoding="utf-8"))


def test_a_pdf_as_json_says_how_each_page_went(tmp_path: Path) -> None:
    pdf = tmp_path / "three.pdf"
    pdf.write_bytes(three_pages())
    done = run("ocr_mlx", "read", str(pdf), "--model", "builtin", "--format", "json")
    assert done.returncode == 0, done.stderr
    pages = json.loads(done.stdout)["pages"]
    assert [page["status"] for page in pages] == ["ok", "blank", "ok"]
    assert is_the_page(pages[0]["text"]) and is_the_page(pages[2]["text"])
    assert pages[0]["confidence"] > 0.9 and pages[1]["confidence"] is None


def test_python() -> None:
    code = f"import ocr_mlx; r = ocr_mlx.read({str(PAGE)!r}, model='builtin'); print(r.pages[0].status); print(r.text)"
    done = run_code(code)
    assert done.returncode == 0, done.stderr
    status, _, text = done.stdout.partition("\n")
    assert status == "ok" and is_the_page(text)


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_doctor_reads_its_page() -> None:
    done = run("ocr_mlx", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr


def test_http_reads_every_kind_of_address(start: Start) -> None:
    record = start("--port", "0", OCR_MLX_MODEL="builtin").ready()
    data = base64.b64encode(PAGE.read_bytes()).decode()
    pdf = base64.b64encode(three_pages()).decode()
    with httpx.Client(base_url=record["url"], timeout=60) as client:
        for filename in (f"file://{PAGE}", f"file:///{PAGE}", f"data:image/png;base64,{data}"):
            answer = client.post("/ocr", json={"filename": filename})
            assert answer.status_code == 200 and answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert is_the_page(answer.text)
        answer = client.post("/ocr", json={"filename": f"data:application/pdf;base64,{pdf}", "model": "builtin"})
        assert answer.headers["x-ocr-mlx-status"] == "ok,blank,ok"
        assert is_the_page(answer.text.split("\n\nA short note")[0])
        model = client.get("/health", headers={"accept": "application/json"}).json()
        assert model["modelLoaded"] is True


def test_an_idle_model_leaves_and_comes_back(start: Start) -> None:
    record = start("--port", "0", OCR_MLX_MODEL="builtin", OCR_MLX_KEEP_ALIVE="0.2").ready()
    with httpx.Client(base_url=record["url"], timeout=60) as client:

        def loaded() -> bool:
            return bool(client.get("/health", headers={"accept": "application/json"}).json()["modelLoaded"])

        for _ in range(2):
            assert is_the_page(client.post("/ocr", json={"filename": f"file://{PAGE}"}).text)
            deadline = time.monotonic() + 20
            while loaded():
                assert time.monotonic() < deadline, "the model never left"
                time.sleep(0.05)


@pytest.mark.slow
def test_the_server_answers_while_pages_decode(start: Start) -> None:
    """At least nine of ten answers within 50 ms: the tenth belongs to whatever else the machine does."""
    record = start("--port", "0", OCR_MLX_MODEL="builtin").ready()
    url = record["url"]
    pdf = f"data:application/pdf;base64,{base64.b64encode(three_pages()).decode()}"
    texts: list[str] = []

    def read() -> None:
        texts.append(httpx.post(f"{url}/ocr", json={"filename": pdf}, timeout=120).text)

    httpx.post(f"{url}/ocr", json={"filename": f"file://{PAGE}"}, timeout=120)
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    seconds = []
    with httpx.Client(base_url=url) as client:
        while any(thread.is_alive() for thread in threads):
            began = time.perf_counter()
            assert client.get("/livez").status_code == 200
            seconds.append(time.perf_counter() - began)
    assert len(set(texts)) == 1 and len(texts) == 4
    assert len(seconds) >= 20
    assert sorted(seconds)[int(0.9 * len(seconds))] < 0.05
