"""Notice that whoever started this program has gone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def parent(pid: int, gone: Callable[[], None], *, interval: float = 0.5) -> threading.Thread:
    """Call `gone` once, from a thread, when the process `pid` has ended (or never was)."""

    def wait() -> None:
        import psutil

        try:
            process = psutil.Process(pid)
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                never.wait(interval)
        except psutil.NoSuchProcess:
            pass
        gone()

    never = threading.Event()
    return _start(wait, "watch-parent")


def stream(descriptor: int, gone: Callable[[], None]) -> threading.Thread:
    """Call `gone` once, from a thread, at the end of the file `descriptor`; what comes before is dropped.

    Reads below Python's buffers: a thread that waits inside one cannot be left behind at exit.
    """

    def wait() -> None:
        try:
            while os.read(descriptor, 4096):
                pass
        except OSError:
            pass
        gone()

    return _start(wait, "watch-stdin")


def _start(target: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
