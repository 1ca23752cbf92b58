"""A few seconds of fuzzing for every target, each in a process of its own. Longer by hand: `scripts/fuzz.py`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import fuzzing

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"
SECONDS = 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None, reason="atheris is not installed: pip install atheris"
    ),
]


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("name", fuzzing.names())
def test_nothing_breaks_it(name: str, tmp_path: Path) -> None:
    done = fuzz(name, "--seconds", str(SECONDS), "--findings", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    told, inputs, *_ = done.stdout.split()
    assert told == f"{name}:" and int(inputs) > 10
    assert "no finding" in done.stdout
