"""Notice that whoever started this program has gone."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable

INTERVAL = 0.2
"""Seconds between two looks at a process."""


def parent(pid: int, gone: Callable[[], None], *, interval: float = INTERVAL) -> threading.Thread:
    """Call `gone` once, from a thread, when the process `pid` has ended (or never was).

    A process that is dead but not yet reaped has ended, and another one that gets its id later does not count.
    """

    def wait() -> None:
        lives = _look_at(pid)
        while lives():
            time.sleep(interval)
        gone()

    return _start(wait, "watch-parent")


def stream(descriptor: int, gone: Callable[[], None]) -> threading.Thread:
    """Call `gone` once, from a thread, at the end of the file `descriptor`; what comes before is dropped.

    Reads below Python's buffers: a thread that waits inside one cannot be left behind at exit.
    """

    def wait() -> None:
        while _has_more(descriptor):
            pass
        gone()

    return _start(wait, "watch-stdin")


def _look_at(pid: int) -> Callable[[], bool]:
    """Whether the process still runs, as a question to ask again and again."""
    if os.getppid() == pid:  # the system gives an orphan another parent at once, whoever the old one belonged to
        return lambda: os.getppid() == pid
    import psutil

    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return lambda: False

    def lives() -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # another user's, but there
            return True

    return lives


def _has_more(descriptor: int) -> bool:
    try:
        return bool(os.read(descriptor, 4096))
    except BlockingIOError:  # whoever opened it made it so
        select.select([descriptor], [], [])
        return True
    except OSError:
        return False


def _start(target: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
