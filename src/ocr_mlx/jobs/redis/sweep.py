"""Looks after the jobs in Redis: sends lost units again, ends jobs that are done or take too long, forgets old ones.

Every server and every worker has a sweeper; one of them works at a time, and another takes over when it goes.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Final

from ocr_mlx.errors import JobNotFound, JobsUnavailable
from ocr_mlx.jobs.records import JobState, outcome, too_late
from ocr_mlx.jobs.redis.rows import OtherVersion
from ocr_mlx.jobs.redis.store import RedisStore
from ocr_mlx.jobs.redis.units import Unit, Units
from ocr_mlx.utils.logs import counted

log = logging.getLogger(__name__)

PERIOD: Final = 2.0
_LEAD_SECONDS = 3 * PERIOD
_AT_ONCE = 200
_EXPIRE_SECONDS = 10.0
_LONGEST_GAP = 30.0
"""A job that was not surveyed for longer, because all servers and workers were gone, was not read all that time."""
_LONGEST_WAIT = 30.0
_LONELY_SECONDS = 20.0
_LONELY_AGAIN = 300.0


def settle(store: RedisStore, job_id: str) -> bool:
    """End a job whose pages are all in; whether this call did. Raises JobNotFound and JobsUnavailable."""
    job = store.get(job_id)
    if job.state.final or job.done < job.total:
        return False
    return store.finish(job_id, *outcome(job, store.pages(job_id)))


class Sweeper:
    """A thread that sweeps every few seconds, and tries again when Redis is gone."""

    def __init__(
        self,
        store: RedisStore,
        units: Units,
        send: Callable[[Unit], str],
        *,
        page_seconds: float,
        on_final: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`send` puts a unit into the queue; a job may decode for `page_seconds` for each of its pages."""
        self._store = store
        self._units = units
        self._send = send
        self._page_seconds = page_seconds
        self._on_final = on_final
        self._clock = clock
        self._name = uuid.uuid4().hex
        self._surveyed: dict[str, float] = {}
        self._left: set[str] = set()
        self._expired = clock() - _EXPIRE_SECONDS
        self._lonely: float | None = None
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._live, name="ocr-sweep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Sweep soon."""
        self._wake.set()

    def stop(self) -> None:
        """End; does not wait."""
        self._ending.set()
        self._wake.set()

    def close(self) -> None:
        """End, and wait for what is being done."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join()

    def sweep(self) -> None:
        """Once over the open jobs, unless another does that. Raises JobsUnavailable."""
        if not self._leads():
            self._surveyed.clear()
            return
        found = self._units.open_jobs(_AT_ONCE)
        for job_id in found:
            if self._ending.is_set():
                return
            try:
                self._look_at(job_id)
            except JobNotFound:
                self._surveyed.pop(job_id, None)
            except OtherVersion as error:
                self._leave(job_id, error)
        self._expire()
        self._count_workers(bool(found))

    def send(self, unit: Unit) -> None:
        """Put a unit into the queue and remember it. Raises JobNotFound and JobsUnavailable."""
        self._units.sent(unit, self._send(unit))

    def _leads(self) -> bool:
        """Whether this one looks after the jobs now. Where Redis is too full to say, room is made first."""
        try:
            return self._units.lead(self._name, _LEAD_SECONDS)
        except JobsUnavailable:
            self._expire()
            raise

    def _look_at(self, job_id: str) -> None:
        survey = self._units.survey(job_id, elapsed=self._elapsed(job_id))
        job = survey.job
        if job.state.final:
            return
        if job.done >= job.total:
            self._final(job_id, settle(self._store, job_id))
        elif survey.worked > self._page_seconds * job.total:
            self._final(job_id, self._store.finish(job_id, JobState.FAILED, too_late(self._page_seconds)))
        else:
            for unit in survey.lost:
                self.send(unit)

    def _leave(self, job_id: str, error: OtherVersion) -> None:
        """What this version cannot read holds up no other job. Told once for each."""
        if job_id not in self._left:
            self._left.add(job_id)
            log.warning("job %s is left alone: %s", job_id, error)

    def _elapsed(self, job_id: str) -> float:
        now = self._clock()
        before = self._surveyed.get(job_id, now)
        self._surveyed[job_id] = now
        return min(now - before, _LONGEST_GAP)

    def _final(self, job_id: str, ended: bool) -> None:
        self._surveyed.pop(job_id, None)
        if ended:
            self._on_final()

    def _expire(self) -> None:
        if self._clock() - self._expired >= _EXPIRE_SECONDS:
            self._expired = self._clock()
            self._store.expire(time.time())

    def _count_workers(self, has_work: bool) -> None:
        now = self._clock()
        if not has_work or self._units.workers():
            self._lonely = None
        elif self._lonely is None:
            self._lonely = now + _LONELY_SECONDS
        elif now >= self._lonely:
            self._lonely = now + _LONELY_AGAIN
            log.warning("jobs are waiting and no worker is there to read them: start `ocr_mlx worker`")

    def _live(self) -> None:
        wait = PERIOD
        while not self._ending.is_set():
            try:
                self.sweep()
                wait = PERIOD
            except JobsUnavailable as error:
                wait = min(wait * 2, _LONGEST_WAIT)
                again = counted(wait, "second")
                log.warning("%s It is at %s; trying again in %s.", error.message, self._store.address, again)
            self._wake.wait(wait)
            self._wake.clear()
