"""Contract 4 as its users have it: the real program with `--contract lighton` and the lines of that service's README."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from scripts.benchmark import families

from tests.process import curl as lines
from tests.process.curl import EXAMPLES, TEXT, curl, is_the_page, needs_curl
from tests.process.hub import hub_with
from tests.process.program import Start

pytestmark = [pytest.mark.process, pytest.mark.slow, needs_curl]
LIGHTON = "lightonai/LightOnOCR-2-1B"
PORT = 8000
HEALTH = "curl http://localhost:8000/health"
INFO = "curl http://localhost:8000/info"
INFERENCE = 'curl -X POST "http://localhost:8000/api/inference" -F "file=@{}"'


serve = partial(lines.serve, contract="lighton", wanted=PORT)


def asked(line: str, port: int) -> dict[str, Any]:
    return lines.asked(line, port=(PORT, port))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lines find their files."""
    folder = tmp_path / "documents"
    folder.mkdir()
    page = Image.open(io.BytesIO((EXAMPLES / "page.png").read_bytes())).convert("L")
    page.save(folder / "page.png")
    page.save(folder / "document.pdf", save_all=True, append_images=[page], resolution=100)
    (folder / "notes.txt").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    monkeypatch.chdir(folder)
    return folder


def test_the_readme_with_real_text(start: Start, folder: Path) -> None:
    port = serve(start, OCR_MLX_MODEL="builtin")
    assert asked(HEALTH, port)["status"] == "ok"
    assert asked("curl http://localhost:8000/", port)["message"] == "Welcome to LightOnOCR Service"
    info = asked(INFO, port)
    assert set(info) == {"engine", "device", "model", "api_version"}
    assert (info["engine"], info["model"], info["api_version"]) == ("huggingface", "builtin", "v1")
    read = asked(INFERENCE.format("page.png"), port)
    assert set(read) == {"text", "blocks", "model_version"}
    assert is_the_page(read["text"]) and (read["blocks"], read["model_version"]) == ([], "builtin")
    both = asked(INFERENCE.format("document.pdf"), port)["text"]
    half = len(both) // 2
    assert is_the_page(both[:half]) and is_the_page(both[half:]), "every page, not only the first"
    assert both[: both.index(TEXT.split()[-1])] and "\n\n" in both
    spec = asked("curl http://localhost:8000/api/v1/openapi.json", port)
    assert {"/api/inference", "/info"} <= set(spec["paths"])


def test_what_goes_wrong(start: Start, folder: Path) -> None:
    port = serve(start, OCR_MLX_MODEL="builtin", MAX_FILE_SIZE_MB="0.01", DEVICE="cuda", PROJECT_NAME="My OCR")
    assert asked(INFERENCE.format("page.png"), port) == {"detail": "File too large"}
    assert asked(INFERENCE.format("empty.png"), port) == {"detail": "Empty file"}
    refused = asked(INFERENCE.format("notes.txt"), port)["detail"]
    assert refused.startswith("Invalid image/PDF data: ") and "BytesIO" not in refused and str(folder) not in refused
    (folder / "cut.png").write_bytes((EXAMPLES / "page.png").read_bytes()[:3000])
    assert asked(INFERENCE.format("cut.png"), port)["detail"].startswith("Invalid image/PDF data: ")
    (folder / "cut.pdf").write_bytes(b"%PDF-1.7\nand no more")
    assert asked(INFERENCE.format("cut.pdf"), port)["detail"].startswith("Invalid image/PDF data: ")
    with httpx.Client(base_url=f"http://localhost:{port}") as client:
        codes = [
            client.post("/api/inference", files={"file": d}).status_code for d in (b"", b"x", b"%PDF-", b"x" * 10486)
        ]
        assert codes == [400, 400, 400, 413]
        assert client.post("/api/inference", files={"other": b"x"}).json()["detail"][0]["loc"] == ["body", "file"]
    assert asked(INFO, port)["device"] == "cuda"


@pytest.mark.slow
def test_the_services_own_model(start: Start, folder: Path) -> None:
    """A tiny checkpoint of random numbers under the real one's name: the words are noise."""
    port = serve(start, **hub_with(folder / "hub", LIGHTON), MODEL_NAME=LIGHTON)
    assert asked(INFO, port)["model"] == LIGHTON
    read = asked(INFERENCE.format("page.png") + " -F max_tokens=300", port)
    assert read.get("model_version") == "lightonocr-2-1b" and read["text"], read


@pytest.mark.slow
def test_weights_that_are_here_already(start: Start, folder: Path) -> None:
    """As `huggingface-cli download lightonai/LightOnOCR-2-1B --local-dir Model` leaves them."""
    families.make("lighton_ocr", folder / "Model", tiny=True)
    port = serve(start, MODEL_CACHE_DIR="Model", OCR_MLX_OFFLINE="1", OCR_MLX_FILE_ROOTS=str(folder / "in"))
    assert asked(INFO, port)["model"] == LIGHTON
    read = asked(INFERENCE.format("page.png") + " -F max_tokens=300", port)
    assert read.get("model_version") == "lightonocr-2-1b" and read["text"], read


def test_a_model_that_cannot_be_had_is_503(start: Start, folder: Path) -> None:
    port = serve(start, OCR_MLX_MODELS_DIR=str(folder / "none"), OCR_MLX_OFFLINE="1")
    line = INFERENCE.format("page.png") + ' -w "%{http_code}" -o answer.json'
    assert curl(line, port=(PORT, port)) == "503"
    told = json.loads((folder / "answer.json").read_text())["detail"]
    assert told.startswith("Model not ready: ") and str(folder) not in told
    assert asked(HEALTH, port)["status"] == "ok"


@pytest.mark.slow
def test_vllm_is_told_and_asked(start: Start, folder: Path) -> None:
    """Another server of this program stands in for vLLM."""
    engine = start("--port", "0", OCR_MLX_MODEL="builtin").ready()["url"]
    vllm = {"MODEL_SOURCE": "vllm", "VLLM_ENDPOINT": f"{engine}/v1/chat/completions"}
    port = serve(start, **vllm, OCR_MLX_MODEL=f"openai+{engine}/v1#builtin", DEVICE="cpu")
    assert asked(INFO, port) == {"engine": "vllm", "device": "cpu", "model": "builtin", "api_version": "v1"}
    read = asked(INFERENCE.format("page.png"), port)
    assert read.get("model_version") == "builtin-vllm" and is_the_page(read["text"]), read
