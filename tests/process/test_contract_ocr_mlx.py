"""Contract 1 as its README has it: the real program, on its port, with the README's own lines."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from tests.process.curl import curl, needs_curl
from tests.process.hub import hub_with
from tests.process.program import Start

pytestmark = [pytest.mark.process, needs_curl]
SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "page.png"


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
    line = f"curl -s -i -X POST http://127.0.0.1:7771/ocr -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    head, _, text = curl(line, port=port).replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 200") and "content-type: text/plain; charset=utf-8" in head.lower()
    assert "x-ocr-mlx-model: facebook/nougat-small" in head.lower() and text


@pytest.mark.slow
def test_real_words_from_a_data_uri(start: Start) -> None:
    port = (7771, start("serve", "--contract", "ocr_mlx", command=("-m", "ocr_mlx")).ready()["port"])
    uri = f"data:image/png;base64,{base64.b64encode(SAMPLE.read_bytes()).decode()}"
    body = json.dumps({"filename": uri, "model": "builtin"})
    line = f"curl -s -X POST http://127.0.0.1:7771/ocr -H 'Content-Type: application/json' -d '{body}'"
    assert curl(line, port=port).strip() == SAMPLE.with_suffix(".txt").read_text("utf-8").strip()
