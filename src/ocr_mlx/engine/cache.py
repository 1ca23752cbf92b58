"""Models in memory: counted leases, loading once, idle eviction.

The idle clock of a model starts when its last lease ends, and any new lease stops it. Looking (`snapshot`) neither wakes
nor keeps a model. A model nobody leases is unloaded before another one is loaded.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from ocr_mlx.domain import ModelProgress, OnEvent
from ocr_mlx.errors import Cancelled, EngineError, ModelError
from ocr_mlx.model.base import LoadedModel

Load = Callable[[str, OnEvent], LoadedModel]
"""(name, progress) -> model; fetches on the calling thread, makes arrays on the worker."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedModel:
    """What may be told of a model in memory: `bytes` of weights, running `leases`, seconds since it was last used."""

    id: str
    family: str
    bytes: int
    leases: int
    idle_seconds: float
    pinned: bool


class _Entry:
    def __init__(self, key: str) -> None:
        self.key = key
        self.leases = 0
        self.keep_alive = 0.0
        self.used = 0.0
        self.model: Future[LoadedModel] = Future()

    @property
    def loaded(self) -> LoadedModel | None:
        done = self.model.done() and self.model.exception() is None
        return self.model.result() if done else None


class ModelCache:
    """All methods may be called from any thread but the worker's."""

    def __init__(
        self,
        load: Load,
        run: Callable[[Callable[[], None]], Future[None]],
        clock: IdleClock,
        *,
        keep_alive: float,
        identity: Callable[[str], str] = str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`run` runs a function on the thread that owns the arrays; `keep_alive` in seconds, negative keeps for good;
        `identity` gives all names of one model the same key.
        """
        self._load = load
        self._run = run
        self._clock = clock
        self._keep_alive = keep_alive
        self._identity = identity
        self._now = now
        self._lock = threading.RLock()
        self._entries: dict[str, _Entry] = {}

    @contextmanager
    def lease(
        self,
        name: str,
        *,
        keep_alive: float | None = None,
        on_event: OnEvent = lambda _event: None,
        cancel: threading.Event | None = None,
    ) -> Iterator[LoadedModel]:
        """The model, in memory for as long as the block runs. The first caller loads it, others wait for the same load.

        `keep_alive` holds from the last lease's end; of leases that overlap, the longest counts.

        Raises what loading raised, and Cancelled when `cancel` is set while waiting.
        """
        entry = self._loaded(name, self._keep_alive if keep_alive is None else keep_alive, on_event, cancel)
        try:
            yield entry.model.result()
        finally:
            self._give_back(entry)

    def snapshot(self) -> tuple[CachedModel, ...]:
        """What is in memory now."""
        with self._lock:
            entries = [(entry, entry.loaded) for entry in self._entries.values()]
            return tuple(self._describe(entry, model) for entry, model in entries if model is not None)

    def evict(self, name: str | None = None) -> None:
        """Unload a model, or all, unless leased."""
        with self._lock:
            wanted = None if name is None else self._identity(name)
            for key in [k for k in self._entries if wanted in (None, k)]:
                self._unload(key)

    def close(self) -> None:
        """Stop the clock and unload what is not leased."""
        self._clock.close()
        self.evict()

    def _loaded(self, name: str, keep_alive: float, on_event: OnEvent, cancel: threading.Event | None) -> _Entry:
        while True:
            entry, first = self._take(self._identity(name), keep_alive)
            try:
                if first:
                    self._fill(entry, name, on_event)
                _wait(entry.model, cancel)
                return entry
            except BaseException as problem:
                failed_load = entry.model.done() and entry.model.exception() is problem
                self._give_back(entry)
                if first or not failed_load or isinstance(problem, (ModelError, EngineError)):
                    raise
                # The first caller gave up, which says nothing of the model: load it ourselves.

    def _take(self, key: str, keep_alive: float) -> tuple[_Entry, bool]:
        with self._lock:
            self._clock.stop(key)
            entry = self._entries.get(key)
            first = entry is None
            if entry is None:
                for other in list(self._entries):
                    self._unload(other)
                entry = self._entries[key] = _Entry(key)
            entry.keep_alive = _longer(entry.keep_alive, keep_alive) if entry.leases else keep_alive
            entry.leases += 1
            return entry, first

    def _fill(self, entry: _Entry, name: str, on_event: OnEvent) -> None:
        try:
            model = self._load(name, on_event)
        except BaseException as problem:
            with self._lock:
                del self._entries[entry.key]
            entry.model.set_exception(problem)
            return
        entry.model.set_result(model)
        on_event(ModelProgress(model=name, stage="ready", done=model.bytes, total=model.bytes))

    def _give_back(self, entry: _Entry) -> None:
        with self._lock:
            entry.leases -= 1
            entry.used = self._now()
            if entry.leases or self._entries.get(entry.key) is not entry or entry.keep_alive < 0:
                return
            if entry.keep_alive == 0:
                self._unload(entry.key)
            else:
                self._clock.start(entry.key, entry.keep_alive, lambda: self._expire(entry))

    def _expire(self, entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(entry.key) is entry:
                self._unload(entry.key)

    def _unload(self, key: str) -> None:
        """Drop an entry without leases; its arrays go on the thread that owns them. Call with the lock held."""
        entry = self._entries[key]
        if entry.leases or not entry.model.done():
            return
        self._clock.stop(key)
        del self._entries[key]
        holder = [entry.model]
        entry.model = Future()
        self._run(lambda: _release(holder))

    def _describe(self, entry: _Entry, model: LoadedModel) -> CachedModel:
        return CachedModel(
            id=model.ref.id,
            family=model.family.name,
            bytes=model.bytes,
            leases=entry.leases,
            idle_seconds=0.0 if entry.leases else max(0.0, self._now() - entry.used),
            pinned=entry.keep_alive < 0,
        )


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


def _longer(one: float, other: float) -> float:
    """The longer of two times, negative being for good."""
    return min(one, other) if min(one, other) < 0 else max(one, other)


def _wait(model: Future[LoadedModel], cancel: threading.Event | None) -> LoadedModel:
    while True:
        try:
            return model.result(timeout=0.1 if cancel is not None else None)
        except TimeoutError:
            if model.done():
                return model.result()
        if cancel is not None and cancel.is_set():
            raise Cancelled("The request was cancelled while the model was loading.")


def _release(holder: list[Future[LoadedModel]]) -> None:
    """Give the memory back to the system, not only to the allocators' free lists."""
    import mlx.core as mx

    holder.clear()
    gc.collect()
    mx.clear_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
