"""What the real program tells of its work: `/metrics`, log lines as JSON, and never a word of a document."""

from __future__ import annotations

import base64
import io
import json
import signal
from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageDraw, ImageFont
from prometheus_client.parser import text_string_to_metric_families

from tests.process.program import WAIT, Start

pytestmark = pytest.mark.process
MARKER = "Quixotic"
"""Stands in the picture, its name, its folder, the prompt, the address and the query."""


def picture() -> bytes:
    image = Image.new("L", (600, 120), 255)
    ImageDraw.Draw(image).text((30, 40), f"{MARKER} dreams of mills", fill=0, font=ImageFont.load_default(28))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in found}


@pytest.mark.parametrize("style", ["json", pytest.param("text", marks=pytest.mark.slow)])
def test_a_run_is_told_and_counted_and_nothing_of_a_document_is(start: Start, tmp_path: Path, style: str) -> None:
    folder = tmp_path / f"{MARKER}-folder"
    folder.mkdir()
    path = folder / f"{MARKER}.png"
    path.write_bytes(picture())
    program = start(
        "--port",
        "0",
        OCR_MLX_LOG_FORMAT=style,
        OCR_MLX_LOG_LEVEL="debug",
        OCR_MLX_MODEL="builtin",
        OCR_MLX_KEEP_ALIVE="-1",
    )
    with httpx.Client(base_url=program.ready()["url"], timeout=WAIT) as client:
        first = client.get("/metrics")
        assert first.status_code == 200 and 'ocr_mlx_engine_state{state="ready"}' in first.text
        uri = "data:image/png;base64," + base64.b64encode(picture()).decode()
        asked = client.post(f"/ocr?{MARKER}={MARKER}", json={"filename": uri}, headers={"X-Request-ID": "mine-1"})
        assert asked.status_code == 200 and MARKER in asked.text and asked.headers["x-request-id"] == "mine-1"
        for body in (
            {"filename": path.as_uri()},
            {"filename": uri, "prompt": MARKER},
            {"filename": f"{path.as_uri()}.gone"},
        ):
            client.post("/ocr", json=body)
        job = client.post("/ocr", files={"file": (f"{MARKER}.png", picture(), "image/png")}).json()["job_id"]
        client.post("/v1/ocr", json={"model": MARKER, "document": MARKER})
        client.get(f"/{MARKER}/{MARKER}.png")
        client.get("/livez", headers={"X-Request-ID": f"{MARKER} is not plain"})
        assert "event: done" in client.get(f"/ocr/{job}/events").text
        metrics, logs = client.get("/metrics").text, client.get("/logs").text
    program.process.send_signal(signal.SIGTERM)
    written = program.rest()[1]
    for told in (logs, written, metrics):
        assert MARKER.lower() not in told.lower() and str(tmp_path) not in told
    check_metrics(samples(metrics))
    if style == "json":
        check_lines(written)
    else:
        assert "[mine-1] POST /ocr 200" in written and "[mine-1] document done: 1 page (1 ok) by builtin in" in written


def check_metrics(found: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> None:
    assert found["ocr_mlx_documents_total", (("outcome", "ok"),)] >= 2
    assert found["ocr_mlx_documents_total", (("outcome", "source_not_found"),)] == 1
    assert found["ocr_mlx_pages_total", (("model", "builtin"), ("status", "ok"))] >= 2
    assert found["ocr_mlx_tokens_total", (("kind", "generated"),)] > 3
    assert found["ocr_mlx_requests_total", (("method", "GET"), ("route", "-"), ("status", "404"))] == 1
    assert found["ocr_mlx_models_in_memory", ()] == 1
    assert found["ocr_mlx_model_bytes", (("model", "builtin"),)] > 1e6
    assert found["ocr_mlx_model_load_seconds_count", (("model", "builtin"),)] == 1
    assert found["ocr_mlx_documents_in_work", ()] == 0
    for name in ("prefill_seconds", "decode_step_seconds", "batch_rows", "first_token_seconds", "page_seconds"):
        assert found[f"ocr_mlx_{name}_count", ()] >= 1, name
    assert found["process_resident_memory_bytes", ()] > 1e7


def check_lines(written: str) -> None:
    """Every line is one JSON object, and those of a request and of a document have their fields."""
    lines = [json.loads(line) for line in written.splitlines()]
    mine = [line for line in lines if line["request_id"] == "mine-1"]
    (request,) = [line for line in mine if line.get("event") == "request"]
    assert (request["method"], request["route"], request["status"]) == ("POST", "/ocr", 200)
    assert request["ms"] > 0 and request["bytes"] > len(MARKER)
    (document,) = [line for line in mine if line.get("event") == "document"]
    assert document["model"] == "builtin" and document["pages"] == {"ok": 1}
    assert document["generated_tokens"] > 3 and document["seconds"] > 0
    assert {"time", "level", "logger", "message"} <= document.keys()


def test_scraping_keeps_no_model(start: Start, tmp_path: Path) -> None:
    """A scrape every moment neither wakes nor keeps a model."""
    program = start("--port", "0", OCR_MLX_MODEL="builtin", OCR_MLX_KEEP_ALIVE="0.3")
    with httpx.Client(base_url=program.ready()["url"], timeout=WAIT) as client:
        uri = "data:image/png;base64," + base64.b64encode(picture()).decode()
        assert client.post("/ocr", json={"filename": uri}).status_code == 200
        for _ in range(500):
            found = samples(client.get("/metrics").text)
            if found["ocr_mlx_models_in_memory", ()] == 0:
                break
        else:
            pytest.fail("scraping keeps the model")
        assert found["ocr_mlx_model_evictions_total", (("model", "builtin"),)] == 1
        assert found["ocr_mlx_model_load_seconds_count", (("model", "builtin"),)] == 1
