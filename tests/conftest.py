"""Shared by all tests: a fast BLAS before mlx is imported, an environment without the developer's own settings, and Ctrl-C.

One thread of BLAS, here and in the programs that tests start: on tiny models several wait for one another longer than they
compute, the more so where something else runs.
"""

from __future__ import annotations

import os
import signal

import pytest

from ocr_mlx.utils.blas import load_blas

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
load_blas()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs and their children never hear of it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OCR_MLX_") and not name.startswith("OCR_MLX_TEST_")]:
        if name not in ("OCR_MLX_CORPUS", "OCR_MLX_MODEL_FACTS"):
            monkeypatch.delenv(name)
