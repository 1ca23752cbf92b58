"""The clock that idle models are unloaded by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol


class IdleClock(Protocol):
    """Runs a function once, later. A second `start` under the same key replaces the first."""

    def start(self, key: str, seconds: float, function: Callable[[], None]) -> None:
        """Call `function` after `seconds`, from any thread."""
        ...

    def stop(self, key: str) -> None:
        """Forget the key; nothing happens when it is unknown."""
        ...

    def close(self) -> None:
        """End all."""
        ...


class SchedulerClock:
    """The idle clock on APScheduler's background thread."""

    def __init__(self) -> None:
        from apscheduler.schedulers.background import BackgroundScheduler

        self._scheduler = BackgroundScheduler(timezone="UTC")
        self._scheduler.start()

    def start(self, key: str, seconds: float, function: Callable[[], None]) -> None:
        """See IdleClock."""
        from datetime import UTC, datetime, timedelta

        when = datetime.now(UTC) + timedelta(seconds=seconds)
        self._scheduler.add_job(function, "date", run_date=when, id=key, replace_existing=True, misfire_grace_time=None)

    def stop(self, key: str) -> None:
        """See IdleClock."""
        from apscheduler.jobstores.base import JobLookupError

        with suppress(JobLookupError):  # unknown, or it fires at this very moment
            self._scheduler.remove_job(key)

    def close(self) -> None:
        """See IdleClock."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
