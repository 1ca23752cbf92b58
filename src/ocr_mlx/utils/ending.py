"""How a process ends: a first signal asks it to, a second one ends it at once, a deadline holds whatever a thread does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


def _go() -> None:
    raise SystemExit(0)


class Ending:
    """This process's end. `start` begins it, `last_act` is done even where there is no time for anything else."""

    def __init__(self) -> None:
        self.start: Callable[[], None] = _go
        self.last_act: Callable[[], None] = lambda: None
        self.reason = ""
        """Why it ends, empty as long as it does not."""
        self._signalled = False

    def begin(self, reason: str) -> None:
        """Begin to end. From any thread; only the first call counts."""
        if not self.reason:
            self.reason = reason
            self.start()

    def within(self, seconds: float) -> None:
        """End the process with status 0 after that time, should it still be there."""
        last = threading.Timer(seconds, self.at_once, (0,))
        last.daemon = True
        last.start()

    def at_once(self, status: int) -> NoReturn:
        """End the process now, whatever its threads do."""
        try:
            self.last_act()
        finally:
            os._exit(status)

    def catch_signals(self) -> None:
        """Begin at SIGTERM, SIGINT and SIGHUP; at a second one end at once, with status 128 + its number."""
        for number in _signals():
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._signalled:
            self.at_once(128 + number)
        self._signalled = True
        self.begin(signal.Signals(number).name)


def _signals() -> tuple[signal.Signals, ...]:
    """A closed terminal is told by SIGHUP, unless whoever started the process wants it to outlive the terminal (`nohup`)."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGTERM, signal.SIGINT
    return signal.SIGTERM, signal.SIGINT, signal.SIGHUP
