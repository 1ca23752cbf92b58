"""Folders that were made to do harm, through the real program: each is told, and the server reads on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from scripts.benchmark import families

from tests.process.program import Program
from tests.unit.model.poison import MARK, POISONS

pytestmark = [pytest.mark.process, pytest.mark.slow]
PAGE = Path(__file__).parents[2] / "examples" / "page.png"
FOLDERS = {
    "pickle": "wants to run code",
    "pipe, weights": "model.safetensors is missing",
    "device": "leads out of the model's folder",
    "memo without end": "holds no table of tensors",
    "layers": "more than 1000 layers",
    "tensor of control characters": "has no description",
    "tokenizer too deep": "is no tokenizer",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("made")
    families.make("nougat", scratch / "whole", tiny=True)
    for name in (*FOLDERS, "python beside"):
        POISONS[name](Path(shutil.copytree(scratch / "whole", scratch / _plain(name))))
    return scratch


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    command = [sys.executable, "-m", "ocr_mlx.endpoint", "--port", "0"]
    program = Program(command, tmp_path_factory.mktemp("state"), {}, stdin=subprocess.DEVNULL)
    with program.process:
        try:
            with httpx.Client(base_url=program.ready()["url"], timeout=60) as client:
                yield client
        finally:
            program.process.kill()


def _plain(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


@pytest.mark.parametrize("name", FOLDERS)
def test_the_server_tells_what_is_wrong_and_lives(client: httpx.Client, made: Path, name: str) -> None:
    answer = client.post("/ocr", json={"filename": PAGE.as_uri(), "model": str(made / _plain(name))})
    assert answer.status_code == 422
    assert FOLDERS[name] in answer.text
    assert str(made) not in answer.text
    assert client.get("/livez").status_code == 200
    assert not list(made.rglob(MARK))


def test_code_beside_the_weights_is_never_imported(client: httpx.Client, made: Path) -> None:
    asked = {"filename": PAGE.as_uri(), "model": str(made / "python-beside"), "max_tokens": 2}
    assert client.post("/ocr", json=asked).status_code == 200
    assert not list(made.rglob(MARK))


@pytest.mark.parametrize("command", ["read", "convert"])
def test_the_command_line_tells_the_same(made: Path, tmp_path: Path, command: str) -> None:
    folder, out = str(made / "pickle"), tmp_path / "out"
    rest = [str(PAGE), "--model", folder] if command == "read" else [folder, "--out", str(out), "--bits", "4"]
    told = [sys.executable, "-m", "ocr_mlx", command, *rest]
    done = subprocess.run(told, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 3
    assert "wants to run code" in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists() and not list(tmp_path.iterdir())
    assert not list(made.rglob(MARK))
