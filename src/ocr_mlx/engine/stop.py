"""Why a run ends before its end: the caller gave up, the engine closes, or its time is over."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from ocr_mlx.domain import PageError, PageResult, PageStatus
from ocr_mlx.errors import InvalidOption, TimedOut

Reason = Literal["", "given up", "late"]


class Stop(threading.Event):
    """One run's flag. It is set when the caller's own flag is, which is only looked at, and when the time is over.

    What came first stays the reason. Rows look at it at every step, so nobody needs to wake up when the time passes.
    """

    def __init__(self, caller: threading.Event | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._caller = caller
        self._clock = clock
        self._seconds = math.inf
        self._end = math.inf
        self._reason: Reason = ""

    def is_set(self) -> bool:
        """Whether the run is to end."""
        if not self._reason:
            self._reason = self._look()
        return bool(self._reason)

    def limit(self, seconds: float | None) -> None:
        """Allow this many seconds from now on; None for no limit."""
        if seconds is not None:
            self._seconds, self._end = seconds, self._clock() + seconds

    @property
    def timed_out(self) -> bool:
        """Whether it is set because the time is over."""
        return self.is_set() and self._reason == "late"

    def explain(self, result: PageResult) -> PageResult:
        """The result, which says so where the page was cut short because the time was over."""
        if result.status is not PageStatus.CANCELLED or result.error is not None or not self.timed_out:
            return result
        late = TimedOut(
            f"The {self._seconds:g} seconds that the request may take were over before this page was done.",
            hint="Allow more with `timeout` (OCR_MLX_TIMEOUT), or ask for fewer pages.",
        )
        return replace(result, error=PageError(code=late.code, message=str(late)))

    def _look(self) -> Reason:
        if super().is_set() or (self._caller is not None and self._caller.is_set()):
            return "given up"
        return "late" if self._clock() >= self._end else ""


def check_timeout(seconds: float | None) -> None:
    """Raise InvalidOption for a time in which nothing can be read; infinity is no limit."""
    if seconds is None:
        return
    hint = "It is a number of seconds above 0."
    if isinstance(seconds, int) and abs(seconds) > sys.float_info.max:
        raise InvalidOption("timeout cannot be a number of that size.", hint=hint)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise InvalidOption(f"timeout cannot be {seconds!r}.", hint=hint)
