"""The real program is told to end while it does what nothing can interrupt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.fakes import page

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
PROMPT = 10.0
"""Seconds on a busy machine; the work itself takes minutes."""
PROGRAM = """
import sys
import time
import mlx.core as mx
from ocr_mlx.cli.app import Tools, main
from ocr_mlx.settings import Settings
from tests.unit.cli.test_read_engine import build
from tests.unit.fakes import ScriptGraph, ScriptProcessor

def prepare(*_arguments):
    print("computing", file=sys.stderr, flush=True)
    time.sleep(300)

def prefill(*_arguments):
    print("computing", file=sys.stderr, flush=True)
    wide = mx.ones((1500, 1500))
    for _ in range(20000):
        wide = wide @ wide
    mx.eval(wide)

if sys.argv[1] == "the pass":
    ScriptGraph.prefill = prefill
else:
    ScriptProcessor.prepare = prepare
main(["read", sys.argv[2]], Tools(settings=Settings, build=build))
"""


@pytest.mark.parametrize("endless", ["the pass", "the preparation"])
def test_ctrl_c_ends_the_program(endless: str, tmp_path: Path) -> None:
    page(0, 0).image.save(tmp_path / "page.png")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, endless, str(tmp_path / "page.png")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stderr is not None
        while "computing" not in (line := program.stderr.readline()):
            assert line, "it ended before it began"
        began = time.monotonic()
        program.send_signal(signal.SIGINT)
        try:
            out, err = program.communicate(timeout=30)
        finally:
            program.kill()
        assert time.monotonic() - began < PROMPT
    assert (program.returncode, out) == (130, "")
    assert "interrupted after 0 of 1 pages" in err and "Traceback" not in err
