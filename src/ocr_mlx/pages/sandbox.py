"""What a page process gives up before it sees its first document, so that a decoder that is taken over can do little.

Every step is best effort: where a system lacks one, the others still hold. On Linux: memory, processor time and files are
limited, the kernel refuses connections, writing and other programs (`seccomp.py`), and the process dies with its parent.
On macOS: processor time and files, and Apple's sandbox refuses the same; memory is watched by the parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Final

from ocr_mlx.pages import seccomp

_MOST_HANDLES: Final = 64
"""Files open at once: fonts and modules need a few."""
_SPARE_SECONDS: Final = 2
_DIE_WITH_PARENT: Final = 1
_FIRST_TO_GO: Final = "800"
"""Of 1000: where the machine's memory is full, the kernel ends this process rather than the server."""
_MACOS_RULES: Final = (
    b"(version 1) (allow default) (deny network*) (deny file-write*) (deny process-exec*) (deny process-fork)"
)


def enter(memory: int, parent: int) -> None:
    """Give up what decoding needs not. `memory` in bytes; ends the process at once where `parent` is no longer its parent.

    Call it before any thread is started.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.dont_write_bytecode = True
    if sys.platform == "linux":
        _on_linux()
    elif sys.platform == "darwin":
        _on_macos()
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, _MOST_HANDLES)
    _limit(resource.RLIMIT_AS, memory)
    if os.getppid() != parent:
        os._exit(0)


def allow_seconds(seconds: float) -> None:
    """Let this process use the processor for so many seconds from now; beyond that the system ends it."""
    spent = time.process_time()
    with contextlib.suppress(ValueError, OSError, OverflowError):
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent + seconds) + _SPARE_SECONDS, hard))


def _limit(kind: int, most: int) -> None:
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (most, most))


def _on_linux() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        seccomp.refuse()


def _on_macos() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).sandbox_init(_MACOS_RULES, 0, ctypes.byref(ctypes.c_char_p()))
