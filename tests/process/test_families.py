"""Every family through the real server: tiny checkpoints with random weights, a PDF of several pages over a real socket."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import pytest
from PIL import Image
from scripts.benchmark import families

from tests.process.program import Start

pytestmark = pytest.mark.process
PAGE = Path(__file__).parents[2] / "examples" / "page.png"
MODES = {"lighton_ocr": "raw", "qwen2_vl": "markdown", "got_ocr2": "format", "deepseek_ocr": "free-tiny"}
TOGETHER = {"got_ocr2": "multi-page", "qwen2_vl": "pages"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for family in MODES:
        families.make(family, folder / family, tiny=True)
    page = Image.open(PAGE).convert("RGB")
    out = io.BytesIO()
    page.save(out, "PDF", save_all=True, append_images=[page.rotate(90, expand=True)], resolution=100)
    (folder / "two.pdf").write_bytes(out.getvalue())
    return folder


def were_read(answer: httpx.Response) -> bool:
    """Both pages; random weights end where they like."""
    statuses = answer.headers["x-ocr-mlx-status"].split(",")
    return len(statuses) == 2 and {*statuses} <= {"ok", "truncated", "blank"} and bool(answer.text.strip())


@pytest.mark.slow
def test_a_pdf_goes_through_every_family(start: Start, checkpoints: Path) -> None:
    url = start("--port", "0").ready()["url"]
    document = (checkpoints / "two.pdf").as_uri()
    with httpx.Client(base_url=url, timeout=60) as client:
        for family, mode in MODES.items():
            body = {"filename": document, "model": str(checkpoints / family), "mode": mode, "max_tokens": 16, "seed": 1}
            answer = client.post("/ocr", json=body)
            assert answer.status_code == 200, (family, answer.text)
            assert were_read(answer), (family, answer.headers)
        for family, mode in TOGETHER.items():
            body = {"filename": document, "model": str(checkpoints / family), "mode": mode, "max_tokens": 16}
            answer = client.post("/ocr", json=body)
            assert answer.status_code == 200, (family, answer.text)
            assert were_read(answer), (family, answer.headers)
        refused = client.post("/ocr", json=body | {"model": str(checkpoints / "got_ocr2"), "mode": "color"})
        assert refused.status_code == 422 and "red, green, blue" in refused.text
        loaded = client.get("/health", headers={"accept": "application/json"}).json()["models"]
        assert "got_ocr2" in [model["id"] for model in loaded]  # no token is asked for: a folder is told by its name
