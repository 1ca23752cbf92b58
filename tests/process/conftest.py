from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.process.program import Program, Start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Program] = []

    def run(*arguments: str, command: Sequence[str] = ("-m", "ocr_mlx.endpoint"), **environ: str) -> Program:
        stdin = subprocess.PIPE if "--stdin-watch" in arguments else subprocess.DEVNULL
        program = Program([sys.executable, *command, *arguments], tmp_path, environ, stdin=stdin)
        started.append(program)
        return program

    yield run
    for program in started:
        with program.process:
            program.process.kill()
