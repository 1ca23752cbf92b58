from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")


def run(code: str) -> Any:
    """What a fresh interpreter prints as JSON; a process keeps what it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\nfrom ocr_mlx.utils.blas import *\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def has_openblas() -> bool:
    try:
        ctypes.CDLL("libopenblas.so.0")
    except OSError:
        return False
    return True


needs_openblas = pytest.mark.skipif(not has_openblas(), reason="no OpenBLAS on this machine")


@needs_openblas
def test_openblas_is_found_once_and_named() -> None:
    name, threads, same, use = run(
        "a = load_blas(); b = load_blas(False)\nprint(json.dumps([a.name, a.threads, a == b, blas_in_use()]))"
    )
    assert "openblas" in name
    assert threads >= 1
    assert same
    assert name in use and f"{threads} threads" in use


def test_refused_first_it_stays_away() -> None:
    name, later, use = run("a = load_blas(False); b = load_blas()\nprint(json.dumps([a.name, b.name, blas_in_use()]))")
    assert name is later is None
    assert "reference" in use


def test_after_mlx_it_is_too_late_and_says_so() -> None:
    name, use = run("import mlx.core\na = load_blas()\nprint(json.dumps([a.name, blas_in_use()]))")
    assert name is None
    assert "reference" in use


def test_a_machine_without_openblas_goes_on() -> None:
    name = run(
        "import ocr_mlx.utils.blas as blas\nblas._NAMES = ('libnone.so.0',)\nprint(json.dumps(load_blas().name))"
    )
    assert name is None


def test_on_macos_nothing_is_loaded() -> None:
    name, use = run("sys.platform = 'darwin'\na = load_blas()\nprint(json.dumps([a.name, blas_in_use()]))")
    assert (name, use) == (None, "Accelerate")


@pytest.mark.parametrize("package", ["model", "inference", "quantize"])
@needs_openblas
def test_each_package_that_needs_mlx_loads_it_first(package: str) -> None:
    loaded, mlx = run(f"import ocr_mlx.{package}\nprint(json.dumps([blas_in_use(), 'mlx.core' in sys.modules]))")
    assert "openblas" in loaded
    assert not mlx
