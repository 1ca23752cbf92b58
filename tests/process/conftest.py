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

    def run(
        *arguments: str, command: Sequence[str] = ("-m", "ocr_mlx.endpoint"), session: bool = False, **environ: str
    ) -> Program:
        """`session`: as the first process of a session of its own, such as a terminal has."""
        stdin = subprocess.PIPE if "--stdin-watch" in arguments else subprocess.DEVNULL
        program = Program(
            [sys.executable, *command, *arguments], tmp_path, environ, stdin=stdin, start_new_session=session
        )
        started.append(program)
        return program

    yield run
    for program in started:
        with program.process:
            program.process.kill()
