"""The documentation's ways to start the server from an app, as they stand there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.process import lives
from tests.process.program import WAIT

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "sidecar.md").read_text("utf-8")
NODE_APP = """
const ocr = await startOcr(process.argv[2]);
const body = JSON.stringify({ filename: process.argv[3], model: "builtin" });
const headers = { "Content-Type": "application/json" };
const refused = await fetch(`${ocr.url}/ocr`, { method: "POST", headers, body });
const answer = await fetch(`${ocr.url}/ocr`, { method: "POST", headers: { ...headers, ...ocr.headers }, body });
const text = await answer.text();
console.log(JSON.stringify({ pid: ocr.pid, refused: refused.status, status: answer.status, text }));
process.stdin.resume();
"""
RUST_APP = """
fn main() {
    let program = std::env::args().nth(1).unwrap();
    let (_server, ready) = start_ocr(&program, "secret").unwrap();
    print!("{ready}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}
"""


def snippet(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def program(tmp_path: Path) -> str:
    """`ocr_mlx`, wherever it is installed."""
    script = tmp_path / "ocr_mlx"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ocr_mlx "$@"\n')
    script.chmod(0o755)
    return str(script)


def told(app: subprocess.Popen[str]) -> dict[str, str | int]:
    assert app.stdout is not None
    found = json.loads(app.stdout.readline())
    assert isinstance(found, dict)
    return found


def goes_with(app: subprocess.Popen[str], pid: int) -> bool:
    family = lives.family(pid)
    app.kill()
    app.wait(WAIT)
    return lives.left(family, WAIT) == []


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_node(program: str, tmp_path: Path) -> None:
    (tmp_path / "app.mjs").write_text(snippet("js") + NODE_APP)
    with subprocess.Popen(
        ["node", str(tmp_path / "app.mjs"), program, (ROOT / "examples" / "page.png").as_uri()],
        env=os.environ | {"OCR_MLX_STATE_DIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as app:
        answer = told(app)
        assert (answer["refused"], answer["status"]) == (401, 200)
        assert str(answer["text"]).startswith("A short note on reading")
        assert goes_with(app, int(answer["pid"]))


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.slow
@pytest.mark.parametrize("broken", ["exit 2", ""])
def test_node_is_told_where_it_cannot_be_started(broken: str, tmp_path: Path) -> None:
    (tmp_path / "app.mjs").write_text(snippet("js") + NODE_APP)
    if broken:
        (tmp_path / "ocr_mlx").write_text(f"#!/bin/sh\n{broken}\n")
        (tmp_path / "ocr_mlx").chmod(0o755)
    ran = subprocess.run(
        ["node", str(tmp_path / "app.mjs"), str(tmp_path / "ocr_mlx")], capture_output=True, text=True, timeout=WAIT
    )
    assert ran.returncode == 1 and ("ended with status 2" if broken else "ENOENT") in ran.stderr


@pytest.mark.skipif(shutil.which("rustc") is None, reason="needs rustc")
@pytest.mark.slow
def test_rust(program: str, tmp_path: Path) -> None:
    (tmp_path / "app.rs").write_text(snippet("rust") + RUST_APP)
    subprocess.run(["rustc", "-D", "warnings", "-o", "app", "app.rs"], cwd=tmp_path, check=True, timeout=120)
    with subprocess.Popen(
        [str(tmp_path / "app"), program],
        env=os.environ | {"OCR_MLX_STATE_DIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as app:
        ready = told(app)
        answer = httpx.get(f"{ready['url']}/livez", headers={"Authorization": "Bearer secret"})
        assert answer.headers["x-ocr-mlx-instance"] == ready["instance"]
        assert goes_with(app, int(ready["pid"]))


def test_the_ready_line_and_the_options_are_the_programs() -> None:
    [line] = re.findall(r'^    (\{"event": "ready".*\})$', DOC, re.MULTILINE)
    assert json.loads(line).keys() == {"event", "url", "port", "pid", "instance", "version", "started"}
    shown = {re.split(r"[ `]", option)[0] for option in re.findall(r"^\| `(--[^`]*)`", DOC, re.MULTILINE)}
    help_ = subprocess.run(
        [sys.executable, "-m", "ocr_mlx", "serve", "--help"], capture_output=True, text=True, check=True
    )
    assert shown == {"--port", "--stdin-watch", "--parent-pid", "--instance"}
    assert all(option in help_.stdout for option in shown)
