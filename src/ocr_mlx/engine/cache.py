"""Models in memory: counted leases, loading once, idle eviction, and a limit to what they fill together.

The idle clock of a model starts when its last lease ends, and any new lease stops it. Looking (`snapshot`, `memory`) neither
wakes nor keeps a model. Several models stay while they fit; the least recently used goes before another is loaded. A load
that finds no room waits for leases to end, and is refused where that would not help.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from ocr_mlx.domain import ModelProgress, OnEvent
from ocr_mlx.engine import budget
from ocr_mlx.engine.clock import IdleClock
from ocr_mlx.engine.entry import LOOK, Entry, Wait, loaded
from ocr_mlx.engine.memory import empty, give_back, held_bytes
from ocr_mlx.errors import Cancelled, EngineError, ModelError, ShuttingDown
from ocr_mlx.model.base import LoadedModel
from ocr_mlx.observer import Observer, shown_model

log = logging.getLogger(__name__)

Load = Callable[[str, OnEvent], LoadedModel]
"""(name, progress) -> model; fetches on the calling thread, makes arrays on the worker. In between, once it knows how many
bytes that takes, it asks for them with `ModelCache.make_room`."""
Reason = Literal["idle", "room", "asked", "closing"]
_KEPT: Final = 20
"""Evictions that are remembered."""
_PATIENCE: Final = 10.0
"""Seconds after which a load that waits for room is not overtaken any more by what keeps it waiting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedModel:
    """What may be told of a model in memory: `bytes` of weights, running `leases`, seconds since it was last used.

    `pinned` stays until it is told to go; `leaving` goes when its last lease ends.
    """

    id: str
    family: str
    bytes: int
    leases: int
    idle_seconds: float
    pinned: bool
    leaving: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Eviction:
    """A model that was unloaded: `held` its weights' bytes, `released` by how much the process's memory really shrank.

    `at` in Unix seconds.
    """

    id: str
    at: float
    reason: Reason
    held: int
    released: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Evicted:
    """What became of an order to unload: what has gone, and the models (by their ids or names) that are in use."""

    gone: tuple[Eviction, ...]
    in_use: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryState:
    """Bytes: the `limit` for models (None: none), what models `held` of it or are about to, what the process takes.

    `waiting` names the models that wait for room; `evictions` are the last ones, newest last.
    """

    limit: int | None
    held: int
    process: int
    waiting: tuple[str, ...]
    evictions: tuple[Eviction, ...]


class ModelCache:
    """All methods may be called from any thread but the worker's."""

    def __init__(
        self,
        load: Load,
        run: Callable[[Callable[[], Eviction]], Future[Eviction]],
        clock: IdleClock,
        *,
        keep_alive: float,
        limit: int | None = None,
        observer: Observer | None = None,
        identity: Callable[[str], str] = str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`run` runs a function on the thread that owns the arrays; `keep_alive` in seconds, negative sets no clock, so that
        models go for others only; `limit` in bytes, None for none; `identity` gives all names of one model the same key.
        """
        self._load = load
        self._run = run
        self._clock = clock
        self._keep_alive = keep_alive
        self._limit = limit
        self._observer = observer or Observer()
        self._identity = identity
        self._now = now
        self._changed = threading.Condition()
        self._entries: dict[str, Entry] = {}
        self._waiting: list[Wait] = []
        self._evictions: deque[Eviction] = deque(maxlen=_KEPT)
        self._closing = False

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

        `keep_alive` holds from the last lease's end; of leases that overlap, the longest counts. A negative one pins the
        model: it stays, whatever needs room, until `evict` or a request that names another time.

        Raises what loading raised, OutOfMemory where no room can be had, Cancelled when `cancel` is set while waiting.
        """
        entry = self._loaded(name, keep_alive, on_event, cancel)
        try:
            yield entry.model.result()
        finally:
            self._end_lease(entry)

    def make_room(self, name: str, size: int) -> None:
        """For the loader, on its thread: give the model that is being loaded its `size` bytes.

        Unloads idle models, the least recently used first, or waits until leases end. Raises OutOfMemory for what could not
        fit however long it waited, Cancelled when its caller gives up, ShuttingDown.
        """
        with self._changed:
            entry = self._entries[self._identity(name)]
            wait = Wait(entry=entry, size=size, since=self._now())
            self._waiting.append(wait)
            try:
                going = self._leaving_for(wait)
                if going is None:
                    log.info("%s waits for %.1f MB until others are not used any more", shown_model(name), size / 1e6)
                while going is None:
                    self._pause(entry.cancel)
                    going = self._leaving_for(wait)
                for key in going:
                    self._unload(self._entries[key], "room")
                entry.size, entry.began = size, self._now()
            finally:
                self._waiting.remove(wait)
                self._changed.notify_all()

    def snapshot(self) -> tuple[CachedModel, ...]:
        """What is in memory now."""
        with self._changed:
            entries = [(entry, entry.loaded) for entry in self._entries.values()]
            return tuple(self._describe(entry, model) for entry, model in entries if model is not None)

    def memory(self) -> MemoryState:
        """How full it is, and what went last."""
        process = held_bytes()
        with self._changed:
            return MemoryState(
                limit=self._limit,
                held=sum(entry.size for entry in self._entries.values()),
                process=process,
                waiting=tuple(wait.entry.name for wait in self._waiting),
                evictions=tuple(self._evictions),
            )

    def evict(self, name: str | None = None) -> Evicted:
        """Unload a model (by its id, or any name of it), or all that are idle; pinned ones too. Waits until that is measured.

        One that is in use goes when its last lease ends, if it was named; of all, those in use stay.
        """
        key = None if name is None else self._identity(name)
        with self._changed:
            wanted = [
                entry for entry in self._entries.values() if name is None or name == entry.shown or key == entry.key
            ]
            busy = [entry for entry in wanted if entry.leases or not entry.model.done()]
            for entry in busy:
                entry.leaving = entry.leaving or name is not None
            going = [self._unload(entry, "asked") for entry in wanted if entry not in busy]
            in_use = tuple(entry.shown for entry in busy)
        return Evicted(gone=tuple(gone.result() for gone in going if gone is not None), in_use=in_use)

    def close(self) -> None:
        """Stop the clock, refuse what waits for room, and unload what is not leased."""
        self._clock.close()
        with self._changed:
            self._closing = True
            for entry in list(self._entries.values()):
                self._unload(entry, "closing")
            self._changed.notify_all()

    # --- leases ----------------------------------------------------------------------------------------------------

    def _loaded(self, name: str, keep_alive: float | None, on_event: OnEvent, cancel: threading.Event | None) -> Entry:
        while True:
            entry, first = self._take(name, keep_alive, cancel)
            try:
                if first:
                    self._fill(entry, on_event)
                loaded(entry.model, cancel)
                return entry
            except BaseException as problem:
                failed_load = entry.model.done() and entry.model.exception() is problem
                self._end_lease(entry)
                if first or not failed_load or isinstance(problem, (ModelError, EngineError)):
                    raise
                # The first caller gave up, which says nothing of the model: load it ourselves.

    def _take(self, name: str, keep_alive: float | None, cancel: threading.Event | None) -> tuple[Entry, bool]:
        key = self._identity(name)
        with self._changed:
            while (entry := self._entries.get(key)) is not None and self._gives_way(entry):
                self._pause(cancel)
            first = entry is None
            if entry is None:
                entry = self._entries[key] = Entry(key, name, self._now())
                entry.cancel = cancel
            self._clock.stop(key)
            entry.wish(keep_alive, self._keep_alive)
            entry.leases += 1
            entry.turn += 1
            return entry, first

    def _fill(self, entry: Entry, on_event: OnEvent) -> None:
        try:
            model = self._load(entry.name, on_event)
        except BaseException as problem:
            with self._changed:
                del self._entries[entry.key]
                self._changed.notify_all()
            entry.model.set_exception(problem)
            return
        with self._changed:
            entry.size = model.bytes
            entry.used = self._now()
            entry.model.set_result(model)
            self._shrink()
            took = entry.used - entry.began
        self._observer.loaded(model.ref.id, model.bytes, took)
        log.info("loaded %s: %.1f MB of weights in %.2f s", shown_model(model.ref.id), model.bytes / 1e6, took)
        on_event(ModelProgress(model=entry.name, stage="ready", done=model.bytes, total=model.bytes))

    def _end_lease(self, entry: Entry) -> None:
        with self._changed:
            entry.leases -= 1
            entry.used = self._now()
            if entry.leases or self._entries.get(entry.key) is not entry:
                return
            if entry.leaving or self._closing:
                self._unload(entry, "closing" if self._closing else "asked")
            elif entry.keep_alive == 0 and not entry.pinned:
                self._unload(entry, "idle")
            elif entry.keep_alive > 0 and not entry.pinned:
                turn = entry.turn
                self._clock.start(entry.key, entry.keep_alive, lambda: self._expire(entry, turn))
            self._changed.notify_all()

    def _expire(self, entry: Entry, turn: int) -> None:
        with self._changed:
            if self._entries.get(entry.key) is entry and entry.turn == turn:
                self._unload(entry, "idle")

    # --- room ------------------------------------------------------------------------------------------------------

    def _leaving_for(self, wait: Wait) -> list[str] | None:
        """The models to unload for it; None while it has to wait. Raises OutOfMemory. Call with the lock held."""
        claims = self._claims(wait.entry)
        budget.check_size(wait.size, self._limit)
        budget.check_pinned(wait.size, claims, self._limit)
        if self._held_up_by(wait.entry, wait.size, self._waiting[: self._waiting.index(wait)]):
            return None
        return budget.leaving(wait.size, claims, self._limit)

    def _gives_way(self, entry: Entry) -> bool:
        """Whether a new lease would keep a load waiting that has waited long."""
        return not entry.pinned and self._held_up_by(entry, entry.size, self._waiting)

    def _held_up_by(self, entry: Entry, size: int, ahead: list[Wait]) -> bool:
        late = self._now() - _PATIENCE
        claims = self._claims(entry)
        return any(
            wait.since <= late and wait.entry is not entry and budget.excludes(size, wait.size, claims, self._limit)
            for wait in ahead
        )

    def _claims(self, besides: Entry | None = None) -> list[budget.Claim]:
        return [
            budget.Claim(
                key=entry.key,
                size=entry.size,
                used=entry.used,
                idle=not entry.leases and entry.model.done(),
                pinned=entry.pinned,
            )
            for entry in self._entries.values()
            if entry is not besides
        ]

    def _shrink(self) -> None:
        """A model turned out larger than expected: what is idle goes, as far as that helps. Call with the lock held."""
        for key in budget.leaving(0, self._claims(), self._limit) or ():
            self._unload(self._entries[key], "room")

    def _pause(self, cancel: threading.Event | None) -> None:
        """Wait for a change. Call with the lock held, once."""
        if self._closing:
            raise ShuttingDown("The engine is shutting down.", hint="Start it again and repeat the request.")
        if cancel is not None and cancel.is_set():
            raise Cancelled("The request was cancelled while its model waited for memory.")
        self._changed.wait(None if cancel is None else LOOK)

    # --- unloading -------------------------------------------------------------------------------------------------

    def _unload(self, entry: Entry, reason: Reason) -> Future[Eviction] | None:
        """Drop an entry without leases; its arrays go on the thread that owns them. Call with the lock held."""
        model = entry.loaded
        if entry.leases or model is None:
            return None
        self._clock.stop(entry.key)
        del self._entries[entry.key]
        entry.model = Future()
        holder = [model]
        del model
        self._changed.notify_all()
        try:
            return self._run(lambda: self._release(holder, reason))
        except ShuttingDown:  # the process ends, and all memory with it
            return None

    def _release(self, holder: list[LoadedModel], reason: Reason) -> Eviction:
        """Let a model go and measure what that gives. Runs on the thread that owns the arrays."""
        name, held = holder[0].ref.id, holder[0].bytes
        before = held_bytes()
        empty(holder.pop())
        give_back()
        released = max(0, before - held_bytes())
        gone = Eviction(id=name, at=time.time(), reason=reason, held=held, released=released)
        with self._changed:
            self._evictions.append(gone)
        self._observer.evicted(name, held, released)
        shown = shown_model(name)
        log.info("unloaded %s (%s): %.1f MB of weights, %.1f MB released", shown, reason, held / 1e6, released / 1e6)
        return gone

    def _describe(self, entry: Entry, model: LoadedModel) -> CachedModel:
        return CachedModel(
            id=model.ref.id,
            family=model.family.name,
            bytes=model.bytes,
            leases=entry.leases,
            idle_seconds=0.0 if entry.leases else max(0.0, self._now() - entry.used),
            pinned=entry.pinned,
            leaving=entry.leaving,
        )
