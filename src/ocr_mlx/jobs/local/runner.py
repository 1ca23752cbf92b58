"""Reads the jobs of a folder on threads of this process.

A long job gives its thread to those that wait, again and again, so that it does not hold up the short ones.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ocr_mlx.errors import OcrMlxError
from ocr_mlx.jobs.base import Reader
from ocr_mlx.jobs.local.reading import Reading
from ocr_mlx.jobs.local.store import SqliteStore
from ocr_mlx.jobs.records import Job
from ocr_mlx.utils.logs import where

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
"""How often jobs of dead processes, and those that another process took in, are looked for."""
_WATCH_SECONDS = 0.5
"""The same while something is read; deadlines are looked at too."""
_TURN_SECONDS = 5.0
"""What a job has before it makes way for those that wait."""
_EXPIRE_SECONDS = 60.0
_PAUSE_SECONDS = (5.0, 60.0)
"""Shortest and longest pause after the store or the engine's start failed."""
_END_SECONDS = 10.0
"""A cancelled page ends within one step, or when the model it waits for is loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunnerOptions:
    """`at_once` jobs, `page_seconds` of decoding for each page, `drain` seconds for running pages at the end."""

    at_once: int = 4
    page_seconds: float = 300.0
    drain: float = 5.0


class Runner:
    """A `Work` on a SqliteStore. Its threads repeat `step` and `look`."""

    def __init__(
        self,
        store: SqliteStore,
        engine: Callable[[], Reader],
        options: RunnerOptions,
        *,
        on_final: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`engine` may block; it is called once a job waits. `on_final` after a job has become final."""
        self._store = store
        self._engine = engine
        self._options = options
        self._on_final = on_final
        self._clock = clock
        self._changed = threading.Condition()
        self._news = 0
        self._active: dict[str, Reading] = {}
        self._stopping = threading.Event()
        self._stopped_at = 0.0
        self._expire_at = clock()
        self._reason = ""
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """See Work. Returns at once."""
        with self._changed:
            if self._threads or self._stopping.is_set():
                return
            for target in [self._read_on] * self._options.at_once + [self._look_on]:
                self._threads.append(threading.Thread(target=target, name="ocr-jobs", daemon=True))
        for thread in self._threads:
            thread.start()

    def submitted(self, job: Job) -> None:
        """See Work."""
        self._tell()

    def cancel(self, job_id: str) -> None:
        """See Work."""
        with self._changed:
            reading = self._active.get(job_id)
        if reading is not None:
            reading.end("final")

    def stop(self) -> None:
        """See Work. Pages that are being decoded have the drain time; no others are begun."""
        with self._changed:
            if self._stopping.is_set():
                return
            self._stopped_at = self._clock()
            self._stopping.set()
            self._changed.notify_all()
            readings = tuple(self._active.values())
        for reading in readings:
            reading.stop()

    def close(self) -> None:
        """See Work. Blocks for what is left of the drain, and until the threads have ended."""
        self.stop()
        with contextlib.suppress(OcrMlxError):
            self._store.excuse()
        with self._changed:
            left = self._stopped_at + self._options.drain - self._clock()
            self._changed.wait_for(lambda: not self._active, timeout=max(0.0, left))
            readings = tuple(self._active.values())
        for reading in readings:
            reading.end("stopped")
        end = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def step(self) -> bool:
        """Read some of the job whose turn it is; whether there was one. Raises what the store and the engine raise."""
        if self._stopping.is_set() or not self._store.is_claimable(self._busy()):
            return False
        reader = self._engine()
        reading = self._claim()
        if reading is None:
            return False
        try:
            final = reading.read(reader)
        finally:
            with self._changed:
                del self._active[reading.job.id]
            self._tell()
        if final:
            self._on_final()
        return True

    def look(self) -> None:
        """End what is late or final, free what dead processes held, forget what has expired."""
        with self._changed:
            active = dict(self._active)
        for reading in active.values():
            reading.look()
        for job_id in self._store.finals(active) if active else ():
            active[job_id].end("final")
        self._store.reclaim()
        if self._clock() >= self._expire_at:
            self._expire_at = self._clock() + _EXPIRE_SECONDS
            self._store.expire(time.time())
        self._share()

    def _share(self) -> None:
        """Jobs that wait get a thread that is free, or that of the job that has been read for longest."""
        with self._changed:
            active = dict(self._active)
        if not self._store.is_claimable(active):
            return
        self._tell()
        if len(active) < self._options.at_once or any(reading.is_ending for reading in active.values()):
            return
        longest = max(active.values(), key=lambda reading: reading.turn)
        if longest.turn >= _TURN_SECONDS:
            longest.give_way()

    def _busy(self) -> tuple[str, ...]:
        with self._changed:
            return tuple(self._active)

    def _claim(self) -> Reading | None:
        with self._changed:
            job = None if self._stopping.is_set() else self._store.claim(tuple(self._active))
            if job is None:
                return None
            reading = Reading(self._store, job, page_seconds=self._options.page_seconds, clock=self._clock)
            self._active[job.id] = reading
            return reading

    def _tell(self) -> None:
        """Something may have changed for threads that found nothing to do."""
        with self._changed:
            self._news += 1
            self._changed.notify_all()

    def _read_on(self) -> None:
        shortest, longest = _PAUSE_SECONDS
        pause = shortest
        while not self._stopping.is_set():
            with self._changed:
                seen = self._news
            try:
                found = self.step()
            except Exception as problem:
                self._report(problem)
                self._stopping.wait(pause)
                pause = min(2 * pause, longest)
                continue
            pause = shortest
            if found:
                self._go_on()
            else:
                self._wait_for_news(seen)

    def _wait_for_news(self, seen: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._news != seen or self._stopping.is_set())

    def _look_on(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except Exception as problem:
                self._report(problem)
                self._stopping.wait(_PAUSE_SECONDS[0])
            self._stopping.wait(_WATCH_SECONDS if self._active else _LOOK_SECONDS)

    def _go_on(self) -> None:
        """Say so where it was told that jobs wait."""
        if self._reason:
            self._reason = ""
            log.info("jobs go on")

    def _report(self, problem: Exception) -> None:
        """A thread of the jobs never ends for an error: the jobs stay, and it tries again. Each reason is told once."""
        reason = str(problem) if isinstance(problem, OcrMlxError) else where(problem)
        if reason != self._reason:
            self._reason = reason
            log.error("jobs wait: %s", reason)
