"""Contract 5 as its users have it: the real program with `--contract deepseek`, the lines of its README, its web page."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.process import curl as lines
from tests.process.curl import EXAMPLES, curl, is_the_page, needs_curl
from tests.process.hub import hub_with
from tests.process.program import Start

pytestmark = [pytest.mark.process, pytest.mark.slow, needs_curl]
DEEPSEEK = "deepseek-ai/DeepSeek-OCR"
DEFAULT = "<image>\n<|grounding|>Convert the document to markdown."
PORT = 8000
HEALTH = "curl http://localhost:8000/health"
MODES = "curl http://localhost:8000/api/modes"
OCR = 'curl -X POST http://localhost:8000/api/ocr -F "image=@{}" -F "mode={}"'


serve = partial(lines.serve, contract="deepseek", wanted=PORT)


def asked(line: str, port: int) -> dict[str, Any]:
    return lines.asked(line, port=(PORT, port))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lines find their files."""
    folder = tmp_path / "documents"
    folder.mkdir()
    page = Image.open(io.BytesIO((EXAMPLES / "page.png").read_bytes())).convert("L")
    page.save(folder / "page.png")
    page.save(folder / "document.pdf", save_all=True, append_images=[page], resolution=144)
    (folder / "notes.txt").write_text("no picture")
    monkeypatch.chdir(folder)
    return folder


def size_of(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


def shown(page: dict[str, Any]) -> tuple[int, int]:
    return size_of(base64.b64decode(page["imageData"].partition(",")[2]))


def test_the_readme_with_real_text(start: Start, folder: Path) -> None:
    runs = folder / "runs"
    port = serve(start, OCR_MLX_MODEL="builtin", DEEPSEEK_OCR_RUNS_DIR=str(runs))
    health = asked(HEALTH, port)
    assert (health["status"], health["modelLoaded"]) == ("ok", False)
    modes = asked(MODES, port)
    assert list(modes["modes"]) == health["modes"] == ["gundam", "base", "small", "tiny", "large"]
    assert (modes["defaultPrompt"], modes["maxImageMb"]) == (DEFAULT, 15.0)

    read = asked(OCR.format("page.png", "gundam"), port)
    assert is_the_page(read["text"]) and is_the_page(read["rawText"])
    assert (read["mode"], read["prompt"], read["fileName"]) == ("gundam", DEFAULT, "page.png")
    assert read["fileSize"] == (folder / "page.png").stat().st_size and read["durationMs"] > 0
    size = size_of((folder / "page.png").read_bytes())
    assert (read["layout"]["width"], read["layout"]["height"]) == size == shown(read["pages"][0])
    assert asked(HEALTH, port)["modelLoaded"] is True

    both = asked(OCR.format("document.pdf", "base") + ' -F "prompt=Free OCR."', port)
    assert (both["prompt"], both["isPdf"], len(both["pages"])) == ("<image>\nFree OCR.", True, 2)
    first, second = both["text"].removeprefix("## 第 1 页\n").split("\n\n## 第 2 页\n")
    assert is_the_page(first) and is_the_page(second)
    assert all(shown(page) == size for page in both["pages"]), "144 dpi"

    items = asked("curl http://localhost:8000/api/history?limit=30", port)["items"]
    assert [(item["id"], item["pages"]) for item in items] == [(both["historyId"], 2), (read["historyId"], 1)]
    kept = asked(f"curl http://localhost:8000/api/history/{both['historyId']}", port)
    assert kept["pages"] == both["pages"] and kept["sourceFile"] == "source.pdf"
    line = f'curl -OJ "http://localhost:8000/api/history/{both["historyId"]}/download?format=md"'
    curl(line, port=(PORT, port))
    assert (folder / "document.md").read_text("utf-8") == both["text"]
    assert (runs / "history" / both["historyId"] / "source.pdf").read_bytes() == (folder / "document.pdf").read_bytes()


@pytest.mark.slow
def test_the_front_end(start: Start, folder: Path) -> None:
    """As its page does it: from another origin, a task first, then its steps while the document is read."""
    friend = {"Origin": "http://localhost:5173"}
    port = serve(start, OCR_MLX_MODEL="builtin", DEEPSEEK_ALLOWED_ORIGINS="http://localhost:5173")
    url = f"http://localhost:{port}"
    seen, found = threading.Event(), []

    def follow(task: str) -> None:
        with httpx.stream("GET", f"{url}/api/progress/{task}", headers=friend, timeout=60) as response:
            for line in response.iter_lines():
                seen.set()
                found.append(line)

    with httpx.Client(base_url=url, headers=friend, timeout=60) as client, ThreadPoolExecutor(1) as pool:
        task = client.post("/api/task/create").json()["taskId"]
        following = pool.submit(follow, task)
        assert seen.wait(20)
        document = (folder / "document.pdf").read_bytes()
        form = {"task_id": task, "mode": "gundam", "prompt": DEFAULT.replace("\n", "\r\n")}
        read = client.post("/api/ocr", files={"image": ("a.pdf", document)}, data=form)
        following.result(60)
        assert read.status_code == 200 and read.headers["access-control-allow-origin"] == "http://localhost:5173"
        assert read.json()["prompt"] == DEFAULT, "as a browser sends it, with other line breaks"
    steps = [json.loads(line.removeprefix("data: ")) for line in found if line.startswith("data: ")]
    assert list(dict.fromkeys(step["stage"] for step in steps)) == [
        "pending",
        "upload",
        "preprocessing",
        "inference",
        "postprocessing",
        "complete",
    ]
    percents = [step["percent"] for step in steps]
    assert percents == sorted(percents) and {20, 55, 90, 100} <= set(percents)
    assert found[-3] == "event: complete"
    refused = httpx.post(f"{url}/api/ocr", files={"image": b"x"}, headers={"Origin": "https://evil.example"})
    assert refused.status_code == 403


def test_what_goes_wrong(start: Start, folder: Path) -> None:
    port = serve(start, OCR_MLX_MODEL="builtin", DEEPSEEK_MAX_IMAGE_MB="0.01")
    assert asked(OCR.format("page.png", "base"), port) == {"detail": "图片体积超过限制（0.01 MB）。"}
    assert asked(OCR.format("notes.txt", "base"), port) == {"detail": "仅支持图片或 PDF 文件。"}
    (folder / "cut.png").write_bytes((EXAMPLES / "page.png").read_bytes()[:3000])
    (folder / "cut.pdf").write_bytes(b"%PDF-1.7\nand no more")
    assert "gundam" in asked(OCR.format("cut.png", "huge"), port)["detail"]
    for name in ("cut.png", "cut.pdf"):
        line = OCR.format(name, "base") + ' -w "%{http_code}" -o answer.json'
        assert curl(line, port=(PORT, port)) == "400"
        assert str(folder) not in (folder / "answer.json").read_text("utf-8")
    assert asked("curl http://localhost:8000/api/history", port) == {"items": []}, "what failed is not kept"


@pytest.mark.slow
def test_the_services_own_model(start: Start, folder: Path) -> None:
    """A tiny checkpoint of random numbers under the real one's name: the words are noise. Large modes take long on a CPU."""
    port = serve(start, **hub_with(folder / "hub", DEEPSEEK))
    read = asked(OCR.format("page.png", "tiny") + " -F max_tokens=48", port)
    assert read.get("mode") == "tiny" and read["rawText"], read
    assert read["pages"][0]["status"] in ("ok", "truncated")
    twice = asked(OCR.format("page.png", "tiny") + ' -F "prompt=Both <image> and <image>"', port)
    assert "<image>" in twice["detail"]


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_nothing_is_left_where_no_history_is_kept(start: Start, folder: Path, tmp_path: Path) -> None:
    port = serve(start, OCR_MLX_MODEL="builtin", OCR_MLX_HISTORY_TTL="0", TMPDIR=str(folder / "tmp"))
    (folder / "tmp").mkdir()
    assert asked(OCR.format("document.pdf", "base"), port)["historyId"] is None
    deadline = time.monotonic() + 5
    while (left := list(files(folder / "tmp"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    assert not [path for path in tmp_path.rglob("*") if path.name in ("runs", "history")]
