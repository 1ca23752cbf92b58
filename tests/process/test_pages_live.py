"""Pages as they finish, from the real program with the built-in model: the documentation's own lines, and a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from ocr_mlx.client import Client
from ocr_mlx.client.sse import Parser
from tests.process.curl import needs_curl
from tests.process.program import Start

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples" / "page.png"
FIRST = "A short note on reading"
LINES = re.findall(
    r"^curl -N \S+/ocr -H 'accept: .*$", (ROOT / "docs" / "services.md").read_text("utf-8"), re.MULTILINE
)
ONE_ROW = {"OCR_MLX_MODEL": "builtin", "OCR_MLX_MAX_ROWS": "1"}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Three pages, no two alike; the second one is blank."""
    page, blank = Image.open(PAGE).convert("L"), Image.new("L", (400, 300), 255)
    out = io.BytesIO()
    page.save(out, "PDF", save_all=True, append_images=[blank, ImageOps.expand(page, 10, 255)], resolution=100)
    (tmp_path / "scan.pdf").write_bytes(out.getvalue())
    return tmp_path / "scan.pdf"


def records(body: bytes) -> list[dict[str, Any]]:
    if body.startswith(b"{"):
        return [json.loads(line) for line in body.splitlines()]
    return [json.loads(message.data) for message in Parser().feed(body)]


@needs_curl
def test_the_lines_of_the_documentation(start: Start, scan: Path) -> None:
    url = start("--port", "0", **ONE_ROW).ready()["url"]
    assert len(LINES) == 2
    for line in LINES:
        words = shlex.split(line.replace("http://127.0.0.1:7771", url).replace("/home/me/scan.pdf", str(scan)))
        with subprocess.Popen([*words, "-s"], stdout=subprocess.PIPE) as curl:
            assert curl.stdout is not None
            told = records(curl.stdout.read())
        names = [record["event"] for record in told]
        assert names[-1] == "document_done" and told[-1]["statuses"] == ["ok", "blank", "ok"]
        done = {record["page"]: record for record in told if record["event"] == "page_done"}
        pieces = {page: [r for r in told if r["event"] == "text" and r["page"] == page] for page in done}
        assert all("".join(r["delta"] for r in pieces[page]) == done[page]["raw_text"] for page in done)
        assert done[0]["text"].startswith(FIRST) and done[2]["text"] == done[0]["text"]
        first_of_the_last = next(at for at, r in enumerate(told) if r["event"] == "text" and r["page"] == 2)
        assert told.index(done[0]) < first_of_the_last, "the third page was decoded before the first one was done"
    with Client(url) as client, client.follow(scan, fresh=True) as reading:
        assert {page.number: page.status for page in reading.pages()} == {1: "ok", 2: "blank", 3: "ok"}
        assert reading.document.texts[1].startswith(FIRST) and reading.document.text == client.read(scan).text


class Terminal:
    """A pseudo-terminal that keeps what is written to it."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.seen = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def text(self) -> str:
        """All of it, once nobody else holds it; without what moves the cursor."""
        os.close(self.theirs)
        self._thread.join(30)
        os.close(self.ours)
        return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", self.seen).decode()

    def _read(self) -> None:
        try:
            while piece := os.read(self.ours, 65536):
                self.seen += piece
        except OSError:  # Linux's way to say that the other end is closed
            pass


def begun(scan: Path, terminal: Terminal, **more: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ocr_mlx", "read", str(scan)]
    env = os.environ | ONE_ROW | {"TERM": "xterm", "COLUMNS": "200"}
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stderr=terminal.theirs, **more)


def test_a_terminal_sees_a_line_for_each_page_and_ctrl_c_keeps_the_text(scan: Path) -> None:
    terminal = Terminal()
    with begun(scan, terminal, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        first = program.stdout.readline()
        program.send_signal(signal.SIGINT)
        rest = program.stdout.read()
        assert program.wait(30) == 130
    assert first.decode() == f"{FIRST}\n" and rest.decode().endswith("more than adjectives.\n")
    seen = terminal.text()
    assert re.search(r"scan\.pdf: page 1 of 3: \d+ tokens, \d+ tokens/s", seen)
    assert "scan.pdf: interrupted after 2 of 3 pages." in seen


@pytest.mark.slow
def test_where_the_text_goes_to_the_terminal_no_line_tears_it_apart(scan: Path) -> None:
    terminal = Terminal()
    with begun(scan, terminal, stdout=terminal.theirs) as program:
        assert program.wait(60) == 0
    seen = terminal.text()
    assert seen.count(FIRST) == 2 and "page 1 of 3" not in seen
