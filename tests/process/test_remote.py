"""The real program with an engine elsewhere: another one of itself, and a fake one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.program import WAIT, Start
from tests.unit.engine.fake_engine import FakeEngine, Handler, delta, engine, refuses, streams, usage

pytestmark = [pytest.mark.process, pytest.mark.slow]
PAGE = Path(__file__).parents[2] / "examples" / "page.png"
FIRST = "A short note on reading"
KEY = "sk-callers-own-key"


@pytest.fixture
def fake() -> Iterator[FakeEngine]:
    with engine() as made:
        yield made


def test_one_ocr_mlx_reads_for_another(start: Start, tmp_path: Path) -> None:
    program = start("--port", "0", OCR_MLX_TOKEN="between-us", OCR_MLX_STATE_DIR=str(tmp_path / "far"))
    endpoint = f"{program.ready()['url']}/v1"
    model = f"openai+{endpoint}#builtin"
    near = start("--port", "0", OCR_MLX_REMOTE_ENDPOINT=endpoint, OCR_MLX_REMOTE_KEY="between-us").ready()
    with httpx.Client(base_url=near["url"], timeout=WAIT) as client:
        there = client.post("/ocr", json={"filename": PAGE.as_uri(), "model": model})
        here = client.post("/ocr", json={"filename": PAGE.as_uri(), "model": "builtin"})
        stranger = client.post("/ocr", json={"filename": PAGE.as_uri(), "model": f"openai+{endpoint}#no-such-model"})
        asked = {"filename": PAGE.as_uri(), "endpoint_url": endpoint, "model": "builtin", "api_key": "not-ours"}
        keyless = client.post("/llm/ocr", json=asked)
        program.process.kill()
        program.process.wait(WAIT)
        gone = client.post("/ocr", json={"filename": PAGE.as_uri(), "model": model})
    assert there.status_code == here.status_code == 200, there.text
    assert there.text == here.text
    assert there.text.startswith(FIRST)
    assert there.headers["x-ocr-mlx-model"] == "builtin"
    assert stranger.status_code == 502 and "404: There is no model 'no-such-model'" in stranger.text
    assert keyless.status_code == 502 and "status 401" in keyless.json()["detail"]
    assert gone.status_code == 502 and "could not be reached" in gone.text


def test_the_settings_send_everything_elsewhere(start: Start, fake: FakeEngine) -> None:
    fake.otherwise = streams("# Read", " elsewhere", then=[usage(10, 4)])
    endpoint = f"{fake.url}/chat/completions"
    near = start("--port", "0", MODEL_SOURCE="vllm", VLLM_ENDPOINT=endpoint, OCR_MLX_REMOTE_KEY=KEY).ready()
    with httpx.Client(base_url=near["url"], timeout=WAIT) as client:
        answer = client.post("/api/inference", files={"file": ("page.png", PAGE.read_bytes(), "image/png")})
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == "# Read elsewhere"
    path, headers, body = fake.requests[0]
    assert (path, body["model"]) == ("/v1/chat/completions", "lightonai/LightOnOCR-2-1B")
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url"]


def test_llm_ocr_keeps_the_callers_key_to_itself(start: Start, fake: FakeEngine) -> None:
    near = start("--port", "0", OCR_MLX_REMOTE_HOSTS=fake.host, OCR_MLX_LOG_LEVEL="debug")
    asked = {"filename": PAGE.as_uri(), "api_key": KEY, "endpoint_url": f"{fake.url}/chat/completions"}
    fake.answers.extend([streams("<s>Text</s>"), refuses(401, f"Incorrect API key provided: {KEY}")])
    with httpx.Client(base_url=near.ready()["url"], timeout=WAIT) as client:
        good = client.post("/llm/ocr", json=asked)
        bad = client.post("/llm/ocr", json=asked)
        other = client.post("/llm/ocr", json=asked | {"endpoint_url": "http://127.0.0.1:9/v1"})
        logs = client.get("/logs").text
    assert (good.status_code, good.text) == (200, "Text")
    assert fake.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    assert (bad.status_code, bad.json()["detail"][:15]) == (502, "LLM OCR failed:")
    assert other.status_code == 403
    assert "OCR_MLX_REMOTE_HOSTS" in other.json()["detail"]
    assert len(fake.requests) == 2
    near.process.terminate()
    said = "".join((logs, bad.text, other.text, *near.rest()))
    assert "POST /llm/ocr 502" in said
    assert KEY not in said and "chat/completions" not in said


@pytest.mark.slow
def test_a_client_that_goes_ends_the_work_elsewhere(start: Start, fake: FakeEngine) -> None:
    def waits(handler: Handler, _body: Mapping[str, Any]) -> None:
        handler.begin()
        handler.say(delta("begun"))
        handler.until_gone()

    fake.otherwise = waits
    near = start("--port", "0", OCR_MLX_REMOTE_HOSTS=fake.host).ready()
    model = f"openai+{fake.url}#any"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{near['url']}/ocr", json={"filename": PAGE.as_uri(), "model": model}, timeout=2)
    gone = time.monotonic()
    assert fake.gone.wait(WAIT)
    assert fake.gone_at - gone < 1


def test_the_command_line_may_name_any_engine(fake: FakeEngine, tmp_path: Path) -> None:
    fake.otherwise = streams("From elsewhere")
    command = [sys.executable, "-m", "ocr_mlx", "read", str(PAGE), "--model", f"openai+{fake.url}#any"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "From elsewhere\n", "")
