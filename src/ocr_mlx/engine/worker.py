"""The one thread that touches arrays: it runs calls between steps and steps every batch that has rows.

Nothing else in the server evaluates an array while the worker runs, so graphs, caches and the device need no locks.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import numpy as np

from ocr_mlx.domain import Finish
from ocr_mlx.errors import OcrMlxError, ShuttingDown
from ocr_mlx.inference.batch import DecodeBatch, shape
from ocr_mlx.inference.failure import as_error
from ocr_mlx.inference.states import fixed_width
from ocr_mlx.inference.stopping import Row
from ocr_mlx.model.base import LoadedModel
from ocr_mlx.observer import Observer

T = TypeVar("T")
_NUMBERS_AT_ONCE = 896 * 672 * 3
"""Numbers of pictures that are read between two steps: one page of a small model. Larger groups are no faster."""


class Worker:
    """Owns the running batches, one for each model in use. All methods may be called from any thread.

    `max_rows` caps every batch; `deterministic` gives every pass the same number of rows, whoever is in it, and verifies no
    drafts, so that a page's text does not depend on its company at all; `observer` is told what happens.
    """

    def __init__(
        self, *, max_rows: int | None = None, deterministic: bool = False, observer: Observer | None = None
    ) -> None:
        self._max_rows = max_rows
        self._deterministic = deterministic
        self._observer = observer or Observer()
        self._told = (0, 0)
        self._calls: deque[Callable[[], None]] = deque()
        self._lanes: dict[int, _Lane] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="ocr-worker", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run `function` on the worker, between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as problem:
                future.set_exception(problem)

        with self._wake:
            if self._closing:
                raise ShuttingDown("The engine is shutting down.", hint="Start it again and repeat the request.")
            self._calls.append(run)
            self._wake.notify()
        return future

    def admit(self, model: LoadedModel, rows: Sequence[Row]) -> None:
        """Queue rows for the model's batch. Every row ends sooner or later, if only because the worker closes."""

        def run() -> None:
            lane = self._lanes.get(id(model))
            if lane is None:
                lane = self._lanes[id(model)] = _Lane(
                    model, self.places(model), deterministic=self._deterministic, observer=self._observer
                )
            lane.waiting.extend(rows)

        self.call(run)

    def places(self, model: LoadedModel) -> int:
        """Most rows of this model that decode together."""
        return min(model.processor.max_rows, self._max_rows or model.processor.max_rows)

    def close(self, timeout: float | None = None) -> bool:
        """End all rows and take no more. Waits for the step in progress, `timeout` seconds at most; False where it goes on."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        return threading.current_thread() is self._thread or self._ended.wait(timeout)

    def _live(self) -> None:
        """Work until closed, then sleep for good.

        A thread that used mlx must not end: what mlx keeps per thread is destroyed behind Python's back, and when that
        meets the interpreter's own end the process aborts.
        """
        try:
            self._loop()
        finally:
            self._ended.set()
        threading.Event().wait()

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not (self._calls or self._lanes or self._closing):
                    self._wake.wait()
                calls, self._calls = self._calls, deque()
                closing = self._closing
            for call in calls:
                call()
                del call  # it may hold a model, which must be able to go
            calls.clear()
            if closing:
                self._end_all()
                return
            self._step()

    def _step(self) -> None:
        for key, lane in list(self._lanes.items()):
            lane.step()
            if lane.idle:
                del self._lanes[key]
        self._tell()

    def _tell(self) -> None:
        """What waits and what is held, when it has changed."""
        lanes = self._lanes.values()
        now = (sum(len(lane.waiting) for lane in lanes), sum(lane.cache_bytes for lane in lanes))
        if now[0] != self._told[0]:
            self._observer.waiting(now[0])
        if now[1] != self._told[1]:
            self._observer.cache_bytes(now[1])
        self._told = now

    def _end_all(self) -> None:
        stopped = ShuttingDown("The engine was shut down before the page was done.", hint="Repeat the request.")
        for lane in self._lanes.values():
            lane.clear(stopped)
        self._lanes.clear()
        self._tell()


class _Lane:
    """One model's batch and the rows that wait for a place in it."""

    def __init__(
        self, model: LoadedModel, places: int, *, deterministic: bool = False, observer: Observer | None = None
    ) -> None:
        self._batch = DecodeBatch(model, width=fixed_width(places) if deterministic else None)
        self._places = places
        self._observer = observer or Observer()
        self.waiting: deque[Row] = deque()
        self._count = itertools.count(1)
        self._turns: dict[int, int] = {}
        """When each document last had a row taken in."""

    @property
    def idle(self) -> bool:
        return not self.waiting and not self._batch.rows

    @property
    def cache_bytes(self) -> int:
        return self._batch.cache_bytes

    def step(self) -> None:
        """Read the pictures of one group of rows that wait, then one step for all: nobody waits longer than that."""
        self._drop_cancelled()
        joining = self._take(min(self._places - len(self._batch.rows), len(self.waiting)))
        try:
            self._join(joining)
            self._advance()
        except Exception as problem:  # the thread must outlive anything a batch can raise
            error = as_error(problem, "decoding")
            for row in joining:
                row.end(Finish.ERROR, error)
            self._batch.clear(error)

    def _join(self, rows: Sequence[Row]) -> None:
        started = time.monotonic()
        joined = self._batch.join(rows)
        if joined:
            self._observer.prefilled(joined, time.monotonic() - started)

    def _advance(self) -> None:
        rows, started = len(self._batch.rows), time.monotonic()
        tokens = self._batch.step()
        if rows:
            self._observer.stepped(rows, tokens, time.monotonic() - started)

    def _take(self, free: int) -> list[Row]:
        """The next rows, as many as are read in one pass: of the document that has the fewest in the batch.

        So a long one holds up no short one. Rows of one document share their cancel flag. Among equals, the document goes
        first whose last turn is longest ago; a row of another shape ends the group.
        """
        share = Counter(id(row.cancel) for row in self._batch.rows)
        present = {*share, *(id(row.cancel) for row in self.waiting)}
        self._turns = {document: turn for document, turn in self._turns.items() if document in present}
        taken: list[Row] = []
        room = _NUMBERS_AT_ONCE
        while len(taken) < free:
            row = min(self.waiting, key=lambda row: (share[id(row.cancel)], self._turns.get(id(row.cancel), 0)))
            room -= _numbers(row)
            if taken and (room < 0 or shape(row) != shape(taken[0])):
                break
            self.waiting.remove(row)
            share[id(row.cancel)] += 1
            self._turns[id(row.cancel)] = next(self._count)
            taken.append(row)
        return taken

    def _drop_cancelled(self) -> None:
        for row in self.waiting:
            if row.cancel.is_set():
                row.end(Finish.CANCELLED)
        self.waiting = deque(row for row in self.waiting if not row.done)

    def clear(self, error: OcrMlxError) -> None:
        self._batch.rows.extend(self.waiting)
        self.waiting.clear()
        self._batch.clear(error)


def _numbers(row: Row) -> int:
    """How much there is to read of a row's pictures."""
    arrays = (row.inputs.pixels, *row.inputs.extras.values())
    return sum(array.size for array in arrays if isinstance(array, np.ndarray))
