"""Puts together what reads and keeps jobs beyond one machine: the server's part, and the worker's."""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ocr_mlx.engine.remote import is_reference
from ocr_mlx.errors import EngineError, JobNotFound, JobsUnavailable
from ocr_mlx.jobs.base import Jobs, Reader
from ocr_mlx.jobs.options import JobOptions
from ocr_mlx.jobs.records import Job
from ocr_mlx.model.registry import family_of
from ocr_mlx.utils.logs import counted

if TYPE_CHECKING:
    from ocr_mlx.jobs.redis.sweep import Sweeper
    from ocr_mlx.jobs.redis.units import Units

log = logging.getLogger(__name__)

GIVING_BACK_SECONDS: Final = 8.0
"""After the drain, how long units may take to stop and to go back to the queue."""
_SENT_AT_ONCE = 16
_LONGEST_WAIT = 15.0
_LOOK_SECONDS = 0.5


def build_redis_jobs(options: JobOptions, engine: Callable[[], Reader]) -> Jobs:
    """The server's jobs: it takes documents, tells of them and looks after them; workers read.

    Raises EngineError when the packages are missing or the address is none.
    """
    check_packages()
    from ocr_mlx.jobs.redis.queue import KEY, Queue
    from ocr_mlx.jobs.redis.store import RedisStore
    from ocr_mlx.jobs.redis.sweep import Sweeper
    from ocr_mlx.jobs.redis.units import Units
    from ocr_mlx.jobs.service import StoredJobs
    from ocr_mlx.jobs.webhook import Webhooks

    store = RedisStore(options.redis_url, ttl=options.ttl, most_waiting=options.most_waiting, together=pages_together)
    queue = Queue(options.redis_url, _no_reader)
    units = Units(store, queue=KEY)
    webhooks = Webhooks(store, options.webhooks)
    sweeper = Sweeper(store, units, queue.send, page_seconds=options.page_seconds, on_final=webhooks.wake)
    return StoredJobs(store, engine, RemoteWork(units, sweeper, queue.close), webhooks, is_remote=True)


def _no_reader(job_id: str, number: int) -> None:
    raise NotImplementedError("a server only sends")


def check_packages() -> None:
    """Raise EngineError when the queue's packages are not installed."""
    try:
        import ocr_mlx.jobs.redis.queue  # noqa: F401 - to see whether it can be
    except ModuleNotFoundError as error:
        if error.name not in ("dramatiq", "redis"):
            raise
        raise EngineError(
            "Jobs in Redis need two more packages.", hint="Install them: pip install 'ocr_mlx[redis]'."
        ) from None


def pages_together(model: str, mode: str) -> int:
    """How many pages the model reads in one prompt in that mode; 0 where only the model's files could tell."""
    if is_reference(model):
        return 1
    family = family_of(model)
    found = family.modes.get(mode or family.default_mode) if family else None
    return found.pages_together if found else 0


class RemoteWork:
    """The server's `Work`: units go to the queue, and a sweeper looks after them."""

    def __init__(self, units: Units, sweeper: Sweeper, on_close: Callable[[], None]) -> None:
        self._units = units
        self._sweeper = sweeper
        self._on_close = on_close
        self._started = False

    def start(self) -> None:
        """See Work."""
        if not self._started:
            self._started = True
            self._sweeper.start()

    def submitted(self, job: Job) -> None:
        """Send the first units; the sweep sends the rest, and these as well should that fail: the job is kept already."""
        try:
            for unit in self._units.cut(job.id)[:_SENT_AT_ONCE]:
                self._sweeper.send(unit)
        except (EngineError, JobNotFound) as error:
            log.warning("job %s: its pages are not queued yet (%s)", job.id, error.code)
        self._sweeper.wake()

    def cancel(self, job_id: str) -> None:
        """Workers see it within a second."""

    def stop(self) -> None:
        """See Work."""
        self._sweeper.stop()

    def close(self) -> None:
        """See Work."""
        self._sweeper.close()
        self._on_close()


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """What a worker needs to know. `threads` units at a time; `page_seconds`, `ttl` and `drain` as for jobs."""

    redis_url: str = field(repr=False)
    threads: int = 8
    page_seconds: float = 300.0
    ttl: float = 3600.0
    drain: float = 5.0


class JobWorker:
    """Reads units on this machine until it is told to end."""

    def __init__(self, options: WorkerOptions, engine: Reader) -> None:
        """Raises EngineError when the packages are missing or the address is none."""
        check_packages()
        from ocr_mlx.jobs.redis.queue import KEY, Queue
        from ocr_mlx.jobs.redis.store import RedisStore
        from ocr_mlx.jobs.redis.sweep import Sweeper
        from ocr_mlx.jobs.redis.units import Units
        from ocr_mlx.jobs.redis.worker import Beat, UnitReader

        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._options = options
        self._ending = threading.Event()
        self._store = RedisStore(options.redis_url, ttl=options.ttl, together=pages_together)
        units = Units(self._store, queue=KEY)
        self._reader = UnitReader(self._store, units, lambda unit: self._sweeper.send(unit), engine)
        self._queue = Queue(options.redis_url, self._reader.read)
        self._sweeper = Sweeper(self._store, units, self._queue.send, page_seconds=options.page_seconds)
        self._beat = Beat(self._reader, lambda: units.present(self.name), address=self._store.address)

    def run(self, on_ready: Callable[[], None]) -> None:
        """Work until `end`; `on_ready` is called once Redis answers. Raises RedisRefuses at once when it does so then."""
        try:
            self._wait_for_redis()
        except JobsUnavailable:
            self._let_go()
            raise
        if not self._ending.is_set():
            self._beat.start()
            self._sweeper.start()
            self._queue.work(self._options.threads)
            on_ready()
            while not self._ending.wait(_LOOK_SECONDS):
                pass  # a signal that reached another thread is only handled when this one runs
            self._drain()
        self._let_go()

    def end(self) -> None:
        """Begin to end. From any thread, and from a signal's handler."""
        self._ending.set()

    def _let_go(self) -> None:
        self._queue.close()
        self._store.close()

    def _wait_for_redis(self) -> None:
        """Raises RedisRefuses: that does not pass by itself."""
        wait = 1.0
        while not self._store.answers():
            again, where = counted(wait, "second"), self._store.address
            log.warning("the job queue (Redis) at %s cannot be reached; trying again in %s", where, again)
            if self._ending.wait(wait):
                return
            wait = min(wait * 2, _LONGEST_WAIT)

    def _drain(self) -> None:
        """Finish what can be finished in time, and give back the rest."""
        log.info("ending: %s in work", counted(self._reader.busy, "unit"))
        self._queue.pause()
        self._sweeper.stop()
        late = threading.Timer(self._options.drain, self._reader.give_up)
        late.daemon = True
        late.start()
        try:
            self._queue.stop(self._options.drain + GIVING_BACK_SECONDS)
        except EngineError as error:
            log.warning("%s It gives the pages of this worker to others in a while.", error.message)
        late.cancel()
        self._reader.give_up()
        self._beat.close()
        self._sweeper.close()
