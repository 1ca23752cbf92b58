"""The composition with a GPU server, in small: a server, Redis, a worker, and an engine that reads for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.process.program import WAIT, Start
from tests.process.redis_server import RedisServer, document, eventually, redis_server  # noqa: F401
from tests.unit.engine.fake_engine import Handler, engine, streams

pytestmark = [pytest.mark.process, pytest.mark.slow]
PAGES, ROWS = 6, 3


def test_workers_render_and_the_engine_reads_as_many_at_once_as_they_have_rows(
    start: Start,
    redis_server: RedisServer,  # noqa: F811
) -> None:
    now, most, changed = 0, 0, threading.Condition()

    def reads(handler: Handler, body: Mapping[str, Any]) -> None:
        nonlocal now, most
        with changed:
            now += 1
            most = max(most, now)
            changed.notify_all()
            changed.wait_for(lambda: most >= ROWS, WAIT / 2)
        time.sleep(0.1)
        with changed:
            now -= 1
        streams("read by the GPU")(handler, body)

    with engine() as fake:
        fake.otherwise = reads
        shared = {
            "OCR_MLX_REDIS_URL": redis_server.url,
            "MODEL_SOURCE": "vllm",
            "OCR_MLX_REMOTE_ENDPOINT": fake.url,
            "OCR_MLX_REMOTE_KEY": "sk-gpu",
            "OCR_MLX_MODEL": "lighton",
        }
        server = start("--port", "0", **shared).ready()["url"]
        assert start(f"--rows={ROWS}", command=("-m", "ocr_mlx", "worker"), **shared).ready()["rows"] == ROWS
        files = {"file": ("report.pdf", document(PAGES, 2), "application/pdf")}
        job = httpx.post(f"{server}/ocr/pdf", files=files, timeout=WAIT).json()["job_id"]
        told: dict[str, Any] = {}

        def ended() -> bool:
            told.update(httpx.get(f"{server}/ocr/{job}", timeout=WAIT).json())
            return told["status"] in ("completed", "failed")

        eventually(ended, WAIT)
    assert told["status"] == "completed", told["error"]
    assert told["result"]["formatted_text"].count("read by the GPU") == PAGES == len(fake.requests)
    assert most == ROWS
    assert {headers["Authorization"] for _path, headers, _body in fake.requests} == {"Bearer sk-gpu"}
    assert {body["model"] for _path, _headers, body in fake.requests} == {"lightonai/LightOnOCR-2-1B"}
    assert told["result"]["metadata"]["model_id"] == "lightonai/LightOnOCR-2-1B"
