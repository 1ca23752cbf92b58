"""Contract 3 with the real program: what its users type, as they type it."""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.process.program import WAIT, Program, Start

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, which is what the contract's users type"),
]
EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = (EXAMPLES / "page.txt").read_text("utf-8").strip()
SECRET = "a-secret-of-both-sides"
Curl = Callable[..., Any]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The folder where curl runs: a picture and a PDF of two pages."""
    folder = tmp_path / "desk"
    folder.mkdir()
    shutil.copy(EXAMPLES / "page.png", folder / "image.png")
    with Image.open(EXAMPLES / "page.png") as page:
        page.convert("RGB").save(folder / "document.pdf", save_all=True, append_images=[page.convert("RGB")])
    return folder


@pytest.fixture
def serve(start: Start) -> Callable[..., tuple[Program, str]]:
    def run(**environ: str) -> tuple[Program, str]:
        given = {"DEFAULT_MODEL": "builtin", "OCR_MLX_OFFLINE": "1"} | environ
        program = start("--contract", "jobs", command=("-m", "ocr_mlx", "serve"), **given)
        return program, str(program.ready()["url"])

    return run


@pytest.fixture
def curl(desk: Path) -> Curl:
    """Runs a line as the README has it, against the port that the program took."""

    def run(url: str, line: str, status: int = 200) -> Any:
        words = shlex.split(line.replace("http://localhost:8000", url))
        done = subprocess.run(
            [*words, "-sS", "-w", "\n%{http_code}"], cwd=desk, capture_output=True, text=True, timeout=WAIT, check=True
        )
        body, _, told = done.stdout.rpartition("\n")
        assert int(told) == status, body
        return json.loads(body) if body.startswith("{") else body

    return run


def polled(curl: Curl, url: str, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        job: dict[str, Any] = curl(url, f"curl http://localhost:8000/ocr/{job_id}")
        if job["status"] in ("completed", "failed"):
            return job
        assert job["status"] in ("pending", "processing") and job["result"] is None
        time.sleep(0.2)
    raise AssertionError(f"still {job['status']}")


def test_the_readmes_lines(serve: Callable[..., tuple[Program, str]], curl: Curl, tmp_path: Path) -> None:
    program, url = serve()
    assert curl(url, "curl http://localhost:8000/")["name"] == "OCR API"
    assert curl(url, "curl http://localhost:8000/health")["status"] == "healthy"
    assert curl(url, "curl http://localhost:8000/models/current") == {"model": None, "is_processing": False}

    taken = curl(url, 'curl -X POST http://localhost:8000/ocr -F "file=@image.png"', 202)
    assert taken.keys() == {"job_id", "message"}
    assert taken["message"] == "Image submitted for processing with 'builtin' engine"
    job = polled(curl, url, taken["job_id"])
    assert (job["id"], job["status"], job["filename"], job["error"]) == (
        taken["job_id"],
        "completed",
        "image.png",
        None,
    )
    assert job["result"]["text"].strip() == TEXT
    assert 0.9 < job["result"]["confidence"] <= 1.0
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", job[key]) for key in ("created_at", "updated_at"))

    models = curl(url, "curl http://localhost:8000/models")
    assert [model["name"] for model in models["models"]][:3] == ["got", "qari", "deepseek"]
    assert models["default_model"] == "builtin"
    assert [model["name"] for model in models["models"] if model["is_loaded"]] == ["builtin"]
    switch = "curl -X POST http://localhost:8000/models/switch -H 'Content-Type: application/json' -d "
    assert curl(url, switch + """'{"model": "got"}'""") == {
        "previous_model": None,
        "current_model": "got",
        "message": "Model set to got. Worker will load on next job.",
    }
    assert curl(url, switch + """'{"model": "zzz"}'""", 400) == {
        "detail": "Unknown model: zzz. Use GET /models to list available models."
    }
    assert curl(url, "curl http://localhost:8000/models/got/status")["status"] == "not_found"
    assert curl(url, "curl http://localhost:8000/models/zzz/status", 404) == {"detail": "Model 'zzz' not found"}

    program.process.terminate()
    assert program.ends() == 0
    program, url = serve()
    assert curl(url, "curl http://localhost:8000/models/current")["model"] == "got", "a switch survives a restart"
    assert curl(url, f"curl http://localhost:8000/ocr/{taken['job_id']}")["result"] == job["result"]
    program.process.terminate()
    assert program.ends() == 0
    out, err = program.rest()
    assert out == "" and "Traceback" not in err and "short note" not in err
    kept = [file for file in tmp_path.rglob("*") if file.is_file() and file.parent.name != "desk"]
    assert not [file for file in kept if b"\x89PNG" in file.read_bytes()], "the document is gone"


@pytest.mark.slow
def test_a_job_ends_as_its_model_cannot_be_had(serve: Callable[..., tuple[Program, str]], curl: Curl) -> None:
    _program, url = serve(OCR_MLX_MODELS_DIR="/nonexistent/models", OCR_MLX_MODEL="/nonexistent/mine")
    taken = curl(url, 'curl -X POST http://localhost:8000/ocr -F "file=@image.png" -F "engine=got"', 202)
    assert taken["message"] == "Image submitted for processing with 'got' engine"
    job = polled(curl, url, taken["job_id"])
    assert (job["status"], job["result"]) == ("failed", None)
    assert "GOT-OCR" in job["error"] and "/nonexistent" not in json.dumps(job)
    taken = curl(url, 'curl -X POST http://localhost:8000/ocr -F "file=@image.png"', 202)
    assert taken["message"] == "Image submitted for processing with 'mine' engine"
    told = polled(curl, url, taken["job_id"])["error"]
    assert "mine" in told and "/nonexistent" not in told
    told = curl(url, "curl http://localhost:8000/models/got/status")
    assert (told["status"], told["is_ready"]) == ("failed", False)
    assert "/nonexistent" not in told["message"]


@contextmanager
def receiver() -> Iterator[tuple[str, queue.Queue[tuple[dict[str, str], bytes]]]]:
    """A webhook's other end, and what it gets."""
    got: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.put(({key.lower(): value for key, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/done", got
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_a_pdf_and_its_webhook(serve: Callable[..., tuple[Program, str]], curl: Curl) -> None:
    _program, url = serve(OCR_MLX_WEBHOOK_PRIVATE="1", OCR_MLX_WEBHOOK_SECRET=SECRET)
    with receiver() as (hook, got):
        line = (
            f'curl -X POST http://localhost:8000/ocr/pdf -F "file=@document.pdf" -F "dpi=150" -F "webhook_url={hook}"'
        )
        taken = curl(url, line, 202)
        assert taken["message"] == "PDF with 2 pages submitted for processing with 'builtin' engine"
        headers, body = got.get(timeout=WAIT)
        job = polled(curl, url, taken["job_id"])
    told = json.loads(body)
    assert told.keys() == {"job_id", "status", "filename", "result", "error"}
    assert (told["job_id"], told["status"], told["filename"]) == (taken["job_id"], "completed", "document.pdf")
    assert told["result"] == job["result"]
    assert headers["content-type"].startswith("application/json")
    signed = headers["x-ocr-mlx-timestamp"].encode() + b"." + body
    signature = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["x-ocr-mlx-signature"] == f"sha256={signature}"
    first, second = re.split(r"^=== Page \d of 2 ===\n", job["result"]["text"], flags=re.MULTILINE)[1:]
    assert job["result"]["text"].startswith("=== Page 1 of 2 ===\n") and first.endswith("\n\n")
    assert "short note on reading" in first and "short note on reading" in second
    assert job["result"]["metadata"]["total_pages"] == 2
    assert [page["page_number"] for page in job["result"]["metadata"]["pages"]] == [1, 2]
    assert job["result"]["output_file_base64"] is None
    stream = curl(url, f"curl -N http://localhost:8000/ocr/{taken['job_id']}/events")
    assert re.findall(r"^event: (\w+)", stream, re.MULTILINE) == ["progress", "page", "page", "done"]
    deadline = time.monotonic() + WAIT
    while curl(url, f"curl http://localhost:8000/ocr/{taken['job_id']}")["webhook"]["state"] != "delivered":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_is_refused(serve: Callable[..., tuple[Program, str]], curl: Curl, desk: Path) -> None:
    _program, url = serve()
    (desk / "empty.png").touch()
    (desk / "notes.txt").write_text("These are notes.")
    (desk / "damaged.pdf").write_bytes(b"%PDF-1.7\nnothing")

    def refused(form: str, to: str = "/ocr", status: int = 400) -> str:
        return str(curl(url, f"curl -X POST http://localhost:8000{to} {form}", status)["detail"])

    assert refused("-F file=@empty.png") == "Invalid image file: File is empty"
    assert refused("-F file=@notes.txt") == "Invalid image file: Unknown or unsupported file type"
    assert refused("-F file=@damaged.pdf", "/ocr/pdf").startswith("Invalid PDF file: ")
    assert "detected PNG" in refused("-F file=@image.png", "/ocr/pdf")
    assert refused("-F file=@document.pdf -F dpi=71", "/ocr/pdf") == "DPI must be between 72 and 600"
    assert refused("-F file=@image.png -F engine=zzz") == (
        "Model 'zzz' is not registered. Check /models for available models."
    )
    assert "'9'" in refused("-F file=@document.pdf -F pages=9")
    assert "address" in refused("-F file=@image.png -F webhook_url=http://127.0.0.1:1/")
    assert refused("-F 'file=@image.png;filename=../../image.png'") == "Invalid filename: Invalid filename pattern"
    assert "Field required" in refused("-F other=x", status=422)
    unknown = "00000000-0000-4000-8000-000000000000"
    assert curl(url, f"curl http://localhost:8000/ocr/{unknown}", 404) == {"detail": "Job not found"}
    assert curl(url, "curl http://localhost:8000/jobs") == {"jobs": []}


@pytest.mark.slow
def test_cancel_and_delete(serve: Callable[..., tuple[Program, str]], curl: Curl, desk: Path) -> None:
    with Image.open(desk / "image.png") as page:
        pages = [page.convert("RGB")] * 40
        pages[0].save(desk / "long.pdf", save_all=True, append_images=pages[1:])
    _program, url = serve(OCR_MLX_MAX_ROWS="1")
    taken = curl(url, "curl -X POST http://localhost:8000/ocr/pdf -F file=@long.pdf -F dpi=100", 202)
    assert "PDF with 40 pages" in taken["message"]
    ended = curl(url, f"curl -X POST http://localhost:8000/ocr/{taken['job_id']}/cancel")
    assert (ended["status"], ended["cancelled"], ended["error"]) == ("failed", True, "The job was cancelled.")
    [listed] = curl(url, "curl http://localhost:8000/jobs?status=cancelled")["jobs"]
    assert listed["id"] == taken["job_id"] and listed["progress"]["done"] < 40
    assert curl(url, f"curl -X DELETE http://localhost:8000/ocr/{taken['job_id']}", 204) == ""
    assert curl(url, f"curl http://localhost:8000/ocr/{taken['job_id']}", 404) == {"detail": "Job not found"}
    taken = curl(url, "curl -X POST http://localhost:8000/ocr -F file=@image.png", 202)
    assert polled(curl, url, taken["job_id"])["status"] == "completed", "the engine is free again"
