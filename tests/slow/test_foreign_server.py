"""Pages through `transformers serve`, a server that is not ours, with a tiny LightOnOCR that we can read as well.

Needs the dependency group `reference`, in this interpreter or in the one that REFERENCE_PYTHON names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageDraw

from ocr_mlx.domain import DecodeOverrides, Event, FilePath, OcrRequest, OcrResult, PageStatus, Prompt, TextDelta
from ocr_mlx.engine.build import build_service
from ocr_mlx.engine.service import OcrService
from ocr_mlx.settings import Settings
from ocr_mlx.utils import ports

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("REFERENCE_PYTHON", sys.executable)
NEEDED = "import transformers.cli.serve, torch, accelerate, uvicorn, fastapi, openai"
STARTS_WITHIN = 120.0


def _free_port() -> int:
    with ports.listen("127.0.0.1", 0) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = subprocess.run([PYTHON, "-c", NEEDED], capture_output=True, text=True)
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["no reason"])[-1]
        pytest.skip(f"no transformers serve here ({reason}); install the dependency group `reference`")
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run([PYTHON, str(ROOT / "scripts/references/_lighton_serve.py"), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Iterator[str]:
    """The reference of the model at the running server."""
    port = _free_port()
    started = "from transformers.cli.transformers import main; main()"
    options = ["--port", str(port), "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    command = [PYTHON, "-c", started, "serve", str(checkpoint), *options]
    with subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}) as server:
        try:
            _wait(f"http://127.0.0.1:{port}/health", server)
            yield f"openai+http://127.0.0.1:{port}/v1#{checkpoint}"
        finally:
            server.kill()


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTS_WITHIN
    while server.poll() is None and time.monotonic() < until:
        try:
            return httpx.get(url).raise_for_status() and None
        except httpx.TransportError:
            time.sleep(0.3)
    pytest.fail("transformers serve did not start")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Three pages, the second blank."""
    pages = [Image.new("RGB", (300, 200), "white") for _ in range(3)]
    for number in (0, 2):
        ImageDraw.Draw(pages[number]).text((20, 20 + 40 * number), f"Page {number}", fill="black", font_size=30)
    pages[0].save(tmp_path / "three.tiff", save_all=True, append_images=pages[1:])
    return tmp_path / "three.tiff"


@contextmanager
def service() -> Iterator[OcrService]:
    made = build_service(Settings.from_env({"OCR_MLX_DTYPE": "float32"}).engine_options().for_the_user())
    try:
        yield made
    finally:
        made.close()


def ask(document: Path, model: str, tokens: int = 40) -> OcrRequest:
    overrides = DecodeOverrides(max_new_tokens=tokens, temperature=0.0)
    return OcrRequest(source=FilePath(path=document), model=model, prompt=Prompt(text="Read"), overrides=overrides)


def test_the_same_tokens_there_and_here(model: str, checkpoint: Path, document: Path) -> None:
    events: list[Event] = []
    with service() as made:
        there: OcrResult = made.run(ask(document, model), events.append)
        here = made.run(ask(document, str(checkpoint)))
    assert [page.status for page in there.pages] == [PageStatus.TRUNCATED, PageStatus.BLANK, PageStatus.TRUNCATED]
    for far, near in zip(there.pages, here.pages, strict=True):
        assert far.raw_text == near.raw_text
        assert (far.status, far.finish) == (near.status, near.finish)
        assert (far.prompt_tokens, far.generated_tokens) == (near.prompt_tokens, near.generated_tokens)
    assert there.text
    told = "".join(event.text for event in events if isinstance(event, TextDelta) and event.page == 0)
    assert told == there.pages[0].raw_text
    assert sum(isinstance(event, TextDelta) for event in events) > 10


def test_cancelling_ends_it_there_too(model: str, document: Path) -> None:
    cancel, at = threading.Event(), [0.0]

    def stop(event: Event) -> None:
        if isinstance(event, TextDelta) and not cancel.is_set():
            at[0] = time.monotonic()
            cancel.set()

    with service() as made:
        result = made.run(ask(document, model, tokens=300), stop, cancel)
        assert time.monotonic() - at[0] < 1
    assert PageStatus.CANCELLED in {page.status for page in result.pages}


def test_a_model_that_is_not_there_fails_the_page_in_the_servers_words(model: str, document: Path) -> None:
    with service() as made:
        result = made.run(ask(document, f"{model}-other"))
    error = result.pages[0].error
    assert error is not None
    assert "pinned" in error.message
