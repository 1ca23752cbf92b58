"""Engines elsewhere that do wrong, behind the real program: every service says so in its own shape, and never with text."""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.program import WAIT, Program
from tests.unit.engine.fake_engine import (
    Answer,
    FakeEngine,
    Handler,
    completes,
    delta,
    engine,
    refuses,
    says,
    streams,
)

pytestmark = [pytest.mark.process, pytest.mark.slow]
PAGE = Path(__file__).parents[2] / "examples" / "page.png"
HALF = b'data: {"choices": [{"delta": {"content": "SECRET half"}}]}\n\n'
REFUSAL = {"choices": [{"message": {"content": None, "refusal": "SECRET"}, "finish_reason": "stop"}]}
SECONDS = 2


def hangs(handler: Handler, _body: Mapping[str, Any]) -> None:
    handler.begin()
    handler.say(delta("SECRET begun"))
    handler.until_gone()


def breaks(handler: Handler, _body: Mapping[str, Any]) -> None:
    handler.begin()
    handler.say(delta("SECRET"))
    time.sleep(0.05)
    handler.reset()


BAD: dict[str, tuple[Answer, str]] = {
    "nonsense": (says(b"{nonsense", "application/json"), "no chat completion"),
    "a web page": (says(b"<html>SECRET</html>", "text/html"), "no chat completion"),
    "an error with status 200": (says(b'{"error": {"message": "loading"}}', "application/json"), "loading"),
    "no choices": (says(b'{"choices": []}', "application/json"), "no chat completion"),
    "a stream of nonsense": (says(b"data: {nonsense\n\n"), "no chat completion"),
    "an error in the stream": (says(HALF + b'data: {"error": {"message": "CUDA"}}\n\n'), "CUDA"),
    "half a stream": (says(HALF), "cut off"),
    "a stream of another type": (says(HALF, "text/plain"), "no chat completion"),
    "a broken stream": (breaks, "broke"),
    "content_filter": (completes("SECRET", "content_filter"), "content_filter"),
    "tool_calls": (streams("SECRET", finish="tool_calls"), "tool_calls"),
    "no reason": (streams("SECRET", finish=None), "did not say why"),
    "a refusal": (lambda handler, _body: handler.whole(200, REFUSAL), "refuses"),
    "401": (refuses(401, "SECRET key"), "OCR_MLX_REMOTE_KEY"),
    "404": (refuses(404, "no such model"), "no such model"),
    "500": (refuses(500, "died"), "died"),
    "busy for an hour": (refuses(503, "full", Retry_After="3600"), "3600 seconds"),
    "a redirect": (refuses(307, Location="http://127.0.0.1:9/"), "redirects"),
}


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeEngine]:
    with engine() as made:
        yield made


@pytest.fixture(scope="module")
def client(fake: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Everything that names no model is read by the fake engine."""
    settings = {"OCR_MLX_MODEL": f"openai+{fake.url}#any", "OCR_MLX_REMOTE_TIMEOUT": str(SECONDS)}
    command = [sys.executable, "-m", "ocr_mlx", "serve", "--port", "0"]
    program = Program(command, tmp_path_factory.mktemp("state"), settings, stdin=subprocess.DEVNULL)
    with program.process:
        try:
            with httpx.Client(base_url=program.ready()["url"], timeout=WAIT) as client:
                yield client
        finally:
            program.process.kill()


def upload() -> dict[str, Any]:
    return {"file": ("page.png", PAGE.read_bytes(), "image/png")}


def plain(client: httpx.Client, _fake: FakeEngine) -> tuple[int, str, str]:
    answer = client.post("/ocr", json={"filename": PAGE.as_uri()})
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.status_code, answer.headers["x-ocr-mlx-error"], answer.text


def live(client: httpx.Client, _fake: FakeEngine) -> tuple[int, str, str]:
    answer = client.post("/ocr", json={"filename": PAGE.as_uri()}, headers={"Accept": "application/x-ndjson"})
    last = json.loads(answer.text.splitlines()[-1])
    assert last["event"] == "error"
    return last["status"], last["code"], last["message"]


def llm(client: httpx.Client, fake: FakeEngine) -> tuple[int, str, str]:
    asked = {"filename": PAGE.as_uri(), "endpoint_url": f"{fake.url}/chat/completions"}
    answer = client.post("/llm/ocr", json=asked)
    return answer.status_code, answer.headers["x-ocr-mlx-error"], answer.json()["detail"]


def chat(client: httpx.Client, _fake: FakeEngine) -> tuple[int, str, str]:
    address = f"data:image/png;base64,{base64.b64encode(PAGE.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": address}}]
    asked = {"model": "any", "messages": [{"role": "user", "content": content}]}
    answer = client.post("/v1/chat/completions", json=asked)
    error = answer.json()["error"]
    assert error["type"] == "server_error"
    return answer.status_code, error["code"], error["message"]


def inference(client: httpx.Client, _fake: FakeEngine) -> tuple[int, str, str]:
    answer = client.post("/api/inference", files=upload())
    return answer.status_code, answer.headers["x-ocr-mlx-error"], answer.json()["detail"]


def deepseek(client: httpx.Client, _fake: FakeEngine) -> tuple[int, str, str]:
    answer = client.post("/api/ocr", files={"image": upload()["file"]})
    return answer.status_code, answer.headers["x-ocr-mlx-error"], answer.json()["detail"]


def job(client: httpx.Client, _fake: FakeEngine) -> tuple[int, str, str]:
    """A job has no status and no code to tell: those of the others are given."""
    answer = client.post("/ocr", files=upload())
    assert answer.status_code == 202, answer.text
    until = time.monotonic() + WAIT
    while (told := client.get(f"/ocr/{answer.json()['job_id']}").json())["status"] not in ("completed", "failed"):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert (told["status"], told["result"]) == ("failed", None)
    late = "within" in told["error"]
    return (504, "timed_out", told["error"]) if late else (502, "remote_failed", told["error"])


SERVICES: tuple[Callable[[httpx.Client, FakeEngine], tuple[int, str, str]], ...] = (
    *(plain, live, llm, chat, inference, deepseek),
    job,
)


@pytest.mark.parametrize("bad", BAD)
def test_what_an_engine_does_wrong_is_told_by_every_service(client: httpx.Client, fake: FakeEngine, bad: str) -> None:
    fake.otherwise, words = BAD[bad]
    for service in SERVICES:
        status, code, message = service(client, fake)
        assert (status, code) == (502, "remote_failed"), (service.__name__, message)
        assert words in message and "SECRET" not in message, service.__name__
        assert fake.host not in message and "/chat/completions" not in message


def test_an_engine_that_hangs_is_given_up_in_time(client: httpx.Client, fake: FakeEngine) -> None:
    fake.otherwise = hangs
    for service in (plain, chat, job):
        fake.gone.clear()
        status, code, message = service(client, fake)
        assert (status, code) == (504, "timed_out") and "OCR_MLX_REMOTE_TIMEOUT" in message
        assert "SECRET" not in message and fake.gone.wait(WAIT)


def test_a_job_that_is_cancelled_lets_the_engine_go(client: httpx.Client, fake: FakeEngine) -> None:
    fake.otherwise = hangs
    fake.gone.clear()
    asked = len(fake.requests)
    job_id = client.post("/ocr", files=upload()).json()["job_id"]
    until = time.monotonic() + WAIT
    while len(fake.requests) == asked and time.monotonic() < until:
        time.sleep(0.02)
    told = client.post(f"/ocr/{job_id}/cancel").json()
    assert (told["status"], told["cancelled"]) == ("failed", True) and fake.gone.wait(WAIT)


def test_ctrl_c_lets_the_engine_go(fake: FakeEngine) -> None:
    fake.otherwise = hangs
    fake.gone.clear()
    asked = len(fake.requests)
    command = [sys.executable, "-m", "ocr_mlx", "read", str(PAGE), "--model", f"openai+{fake.url}#any"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reading:
        until = time.monotonic() + WAIT
        while len(fake.requests) == asked and time.monotonic() < until:
            time.sleep(0.02)
        reading.send_signal(signal.SIGINT)
        out, err = reading.communicate(timeout=WAIT)
    assert (reading.returncode, out) == (130, "") and "interrupted after 0 of 1 pages" in err
    assert fake.gone.wait(WAIT)


def test_a_page_that_was_cut_off_by_the_limit_is_told_as_such(client: httpx.Client, fake: FakeEngine) -> None:
    fake.otherwise = streams("most of it", finish="length")
    answer = client.post("/ocr", json={"filename": PAGE.as_uri()})
    assert (answer.status_code, answer.text, answer.headers["x-ocr-mlx-status"]) == (200, "most of it", "truncated")


def test_what_cannot_be_reached(fake: FakeEngine, client: httpx.Client) -> None:
    fake.otherwise = streams("well")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        told = {
            nobody: "could not be reached",
            "http://gpu.invalid/v1": "Check",  # in time or not: that is the name server's affair
            fake.url.replace("http:", "https:"): "http://",
        }
        for address, words in told.items():
            done = read(f"openai+{address}#any")
            assert (done.returncode, done.stdout) == (1, ""), done.stderr
            assert words in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert client.get("/livez").status_code == 200


def read(model: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ocr_mlx", "read", str(PAGE), "--model", model]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT)


@pytest.mark.parametrize("bad", ["a web page", "401", "content_filter", "half a stream"])
def test_the_command_line_tells_it_too(fake: FakeEngine, bad: str) -> None:
    fake.otherwise, words = BAD[bad]
    done = read(f"openai+{fake.url}#any")
    assert (done.returncode, done.stdout) == (1, "")
    assert words in " ".join(done.stderr.split()) and "SECRET" not in done.stderr


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("openai+http://gpu:8000/v1", "names no model"),
        ("openai+gpu#m", "malformed"),
        ("openai+http://a:b@c/v1#m", "user"),
    ],
)
def test_a_name_that_is_none_is_wrong_usage(model: str, words: str) -> None:
    done = read(model)
    assert (done.returncode, done.stdout) == (2, "") and words in " ".join(done.stderr.split())


def test_a_server_does_not_start_with_an_engine_that_is_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ocr_mlx", "serve", "--port", "0"]
    program = Program(command, tmp_path, {"OCR_MLX_MODEL": "openai+http://a:secret@gpu/v1#m"}, stdin=subprocess.DEVNULL)
    out, err = program.rest()
    assert (program.process.returncode, out) == (2, "")
    assert "OCR_MLX_MODEL" in err and "secret" not in err and "Traceback" not in err
