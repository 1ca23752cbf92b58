"""Load a fast BLAS before mlx asks for one.

The Linux wheel of mlx brings the reference BLAS. Symbols of a library that is loaded globally first win over it, which
makes float32 about thirty times faster. Whoever imports mlx calls `load_blas` before.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_NAMES = ("libopenblas.so.0", "libopenblas.so", "libopenblasp.so.0", "libopenblaso.so.0")
_REFERENCE = "the reference BLAS that mlx brings (slow)"
_ACCELERATE = "Accelerate"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlasInfo:
    """What was loaded: its name and file, None where nothing was; `threads` where the library tells."""

    name: str | None = None
    path: Path | None = None
    threads: int | None = None


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


class _Door:
    """What a process has decided about its BLAS: a library cannot be unloaded, so the first decision stands."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decision: BlasInfo | None = None

    def decide(self, enabled: bool) -> BlasInfo:
        with self._lock:
            if self._decision is None:
                self._decision = _load(_candidates()) if enabled and sys.platform == "linux" else BlasInfo()
            return self._decision


_door = _Door()


def load_blas(enabled: bool = True) -> BlasInfo:
    """Load the system's OpenBLAS for the whole process, if there is one.

    The first call decides, so a caller that wants none says `enabled=False` before anything imports mlx. On macOS mlx
    has Accelerate and nothing is loaded.
    """
    return _door.decide(enabled)


def blas_in_use() -> str:
    """Name the library whose matrix product mlx gets, asked from the dynamic linker rather than remembered."""
    if sys.platform == "darwin":
        return _ACCELERATE
    path = _provider()
    if path is None:
        return _REFERENCE
    threads = _threads(ctypes.CDLL(None))
    return f"{path}, {threads} threads" if threads else str(path)


def _candidates() -> Iterable[str]:
    yield from _NAMES
    yield from (str(Path(sys.prefix) / "lib" / name) for name in _NAMES)


def _load(names: Iterable[str]) -> BlasInfo:
    before = _provider()
    if before is not None:
        return _describe(before)
    if "mlx.core" in sys.modules:  # bound to its own library already: a second one would only pretend
        return BlasInfo()
    for name in names:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        found = _provider()
        if found is not None:
            return _describe(found)
    return BlasInfo()


def _describe(path: Path) -> BlasInfo:
    return BlasInfo(name=path.name, path=path, threads=_threads(ctypes.CDLL(None)))


def _provider() -> Path | None:
    """The library that a global look-up of a matrix product ends in."""
    program = ctypes.CDLL(None)
    try:
        product, dladdr = program.cblas_sgemm, program.dladdr
    except AttributeError:
        return None
    info = _DlInfo()
    if not dladdr(ctypes.cast(product, ctypes.c_void_p), ctypes.byref(info)) or not info.file:
        return None
    return Path(os.fsdecode(info.file)).resolve()


def _threads(library: ctypes.CDLL) -> int | None:
    try:
        count = int(library.openblas_get_num_threads())
    except AttributeError:
        return None
    return count if count > 0 else None
