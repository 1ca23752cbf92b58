"""Models that come and go in the real program: a small memory, many models, many clients, many cycles."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from scripts.benchmark import families

from tests.process.program import Start

pytestmark = pytest.mark.process
PAGE = Path(__file__).parents[2] / "examples" / "page.png"
FAMILIES = ("got_ocr2", "lighton_ocr", "nougat", "qwen2_vl")
MIB = 2**20

CYCLES = """
import io, json, sys, time
from pathlib import Path

from PIL import Image

from ocr_mlx.domain import OcrRequest, Upload
from ocr_mlx.engine.build import build_service
from ocr_mlx.engine.memory import held_bytes
from ocr_mlx.settings import Settings

page, cycles = Image.open(sys.argv[1]).convert("RGB"), int(sys.argv[2])
settings = {"OCR_MLX_KEEP_ALIVE": "0", "OCR_MLX_PAGE_CACHE_MB": "0", "OCR_MLX_MODEL": "builtin"}
service = build_service(Settings.from_env(settings).engine_options())
line = io.BytesIO()
page.crop((0, 0, page.width, 120)).save(line, "PNG")

def load_only():
    with service.cache.lease("builtin"):
        pass

def read():
    assert service.run(OcrRequest(source=Upload(data=line.getvalue()))).pages[0].text

held, started = [], time.monotonic()
for _ in range(cycles):
    (read if sys.argv[3] == "read" else load_only)()
    service.cache._run(lambda: None).result()
    held.append(held_bytes())
evictions = service.cache.memory().evictions
told = [(gone.held, gone.released) for gone in evictions]
service.close()
print(json.dumps({"held": held, "evictions": told, "seconds": time.monotonic() - started}))
"""


def cycles(count: int, what: str) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OCR_MLX_")}
    command = [sys.executable, "-c", CYCLES, str(PAGE), str(count), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.slow
@pytest.mark.parametrize(("what", "count"), [("load", 200), ("read", 80)])
def test_cycles_of_load_and_evict_leave_the_memory_flat(what: str, count: int) -> None:
    """The slope over the last three quarters; a model's weights are 8.8 MB, so 1 in 1000 of them that stays would show."""
    told = cycles(count, what)
    held = told["held"][count // 4 :]
    middle = (len(held) - 1) / 2
    mean = sum(held) / len(held)
    across = sum((x - middle) ** 2 for x in range(len(held)))
    slope = sum((x - middle) * (y - mean) for x, y in enumerate(held)) / across
    noise = (sum((y - mean - slope * (x - middle)) ** 2 for x, y in enumerate(held)) / len(held)) ** 0.5
    figures = f"{slope / 1e3:.2f} kB a cycle, noise {noise / 1e3:.0f} kB, {told['seconds']:.0f} s for {count}"
    print(f"{what}: {held[0] / 1e6:.1f} -> {held[-1] / 1e6:.1f} MB, {figures}")
    assert slope < 9_000, figures
    assert all(released > 0.8 * weights > 5e6 for weights, released in told["evictions"]), told["evictions"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for family in FAMILIES:
        families.make(family, folder / family, tiny=True)
    return folder


@pytest.fixture(scope="module")
def line() -> bytes:
    """The first line of a page, as a PNG."""
    page = Image.open(PAGE).convert("RGB")
    out = io.BytesIO()
    page.crop((0, 0, page.width, 120)).save(out, "PNG")
    return out.getvalue()


def asking(checkpoints: Path, family: str, picture: bytes, **more: object) -> dict[str, object]:
    return {"filename": data_uri(picture), "model": str(checkpoints / family), "max_tokens": 2, **more}


def was_read(answer: httpx.Response) -> bool:
    """Random weights may well say nothing, which is told as such."""
    return answer.status_code == 200 or "left no text" in answer.text


def data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def memory_of(client: httpx.Client) -> dict[str, Any]:
    told: dict[str, Any] = client.get("/models").json()["memory"]
    return told


def test_families_stay_together_until_told_to_go(start: Start, checkpoints: Path, line: bytes) -> None:
    server = start("--port", "0", OCR_MLX_KEEP_ALIVE="60", OCR_MLX_PAGE_CACHE_MB="0", OCR_MLX_MODEL="builtin")
    url = server.ready()["url"]
    with httpx.Client(base_url=url, timeout=60) as client:
        for family in FAMILIES:
            answer = client.post("/ocr", json=asking(checkpoints, family, line))
            assert was_read(answer), answer.text
        told = memory_of(client)
        sizes = {model["name"]: model["bytes"] for model in told["models"]}
        assert list(sizes) == list(FAMILIES), "all fit by default"
        assert told["models_bytes"] == sum(sizes.values()) < told["limit_bytes"]
        assert told["evictions"] == []
        gone = client.post("/models/nougat/evict")
        assert gone.status_code == 200 and gone.json()["evicted"][0]["held_bytes"] == sizes["nougat"]
        all_gone = client.post("/models/evict").json()
        assert len(all_gone["evicted"]) == 3 and all_gone["in_use"] == []
        assert [gone["reason"] for gone in memory_of(client)["evictions"]] == ["asked"] * 4
        assert memory_of(client)["models_bytes"] == 0
        assert client.post("/models/got_ocr2/evict").status_code == 404, "no folder's name is known once it has gone"
        assert client.post("/models/got/evict").json()["message"] == "It was not in memory."


@pytest.mark.slow
def test_a_storm_across_the_instant_of_eviction_loses_none(start: Start, line: bytes) -> None:
    """In each round the clients come back while the model is about to go: every answer is there and the same."""
    server = start("--port", "0", OCR_MLX_PAGE_CACHE_MB="0", OCR_MLX_MODEL="builtin")
    url, together = server.ready()["url"], threading.Barrier(4)

    def client(number: int) -> list[str]:
        dice, texts = random.Random(number), []
        with httpx.Client(base_url=url, timeout=60) as http:
            for keep_alive in (0.0, 0.01, 0.02, 0.0, 0.005, 0.002):
                together.wait(60)
                time.sleep(dice.uniform(0.0, 0.02))
                answer = http.post("/ocr", json={"filename": data_uri(line), "keep_alive": keep_alive})
                assert answer.status_code == 200, answer.text
                texts.append(answer.text)
        return texts

    with ThreadPoolExecutor(4) as clients:
        texts = [text.strip() for told in clients.map(client, range(4)) for text in told]
    assert len(texts) == 24 and {*texts} == {"A short note on reading"}
    with httpx.Client(base_url=url, timeout=60) as http:
        evictions = memory_of(http)["evictions"]
    assert len(evictions) >= 2
    assert all(gone["reason"] == "idle" and gone["released_bytes"] > 5e6 for gone in evictions)


SMALL = """
import sys
from ocr_mlx.engine import device
device.models_memory = lambda: int(2.6 * 2**20)
from ocr_mlx.endpoint import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_memory_that_is_too_small_for_all(start: Start, checkpoints: Path, line: bytes) -> None:
    """Four families for four clients where two fit: the limit holds at every look, and nobody is refused."""
    server = start("--port", "0", command=("-c", SMALL), OCR_MLX_KEEP_ALIVE="60", OCR_MLX_PAGE_CACHE_MB="0")
    url, over = server.ready()["url"], threading.Event()
    looks: list[dict[str, Any]] = []

    def look() -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            while not over.wait(0.1):
                if (told := memory_of(http)) is not None:
                    looks.append(told)

    def client(family: str) -> list[bool]:
        body = asking(checkpoints, family, line)
        with httpx.Client(base_url=url, timeout=60) as http:
            return [was_read(http.post("/ocr", json=body)) for _ in range(3)]

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        with ThreadPoolExecutor(4) as clients:
            read = list(clients.map(client, FAMILIES))
    finally:
        over.set()
        watcher.join()
    assert read == [[True] * 3] * 4
    assert max(told["models_bytes"] for told in looks) <= int(2.6 * MIB)
    assert {model["name"] for told in looks for model in told["models"]} == {*FAMILIES}
    assert any(len(told["models"]) > 1 for told in looks)
    with httpx.Client(base_url=url, timeout=60) as http:
        assert {gone["reason"] for gone in memory_of(http)["evictions"]} == {"room"}
        refused = http.post("/ocr", json={"filename": PAGE.as_uri(), "model": "builtin"})
        assert refused.status_code == 503 and "takes 9 MiB of memory, and models may fill 2 MiB" in refused.text
        for family, fits in (("nougat", True), ("qwen2_vl", True), ("got_ocr2", True), ("lighton_ocr", False)):
            answer = http.post("/ocr", json=asking(checkpoints, family, line, keep_alive=-1))
            assert was_read(answer) == fits, (family, answer.text)
        assert answer.status_code == 503
        assert "pinned models hold 3 MiB" in answer.text and "/evict" in answer.text
        assert {model["name"] for model in memory_of(http)["models"] if model["pinned"]} == {*FAMILIES} - {
            "lighton_ocr"
        }
