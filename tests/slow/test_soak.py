"""Two minutes of the soak: everything at once, every answer right, nothing grows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "scripts" / "soak.py"

pytestmark = [pytest.mark.slow, pytest.mark.process]


def test_two_minutes_of_everything() -> None:
    command = [sys.executable, str(SOAK), "--minutes", "2", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    for kind in ("file", "chat stream", "job", "timeout", "bad document", "wrong question", "broke off", "evict"):
        assert f"| {kind} |" in done.stdout, f"never done: {kind}"
