"""The one thread that touches arrays: it runs calls between steps and steps every batch that has rows.

Nothing else in the server evaluates an array while the worker runs, so graphs, caches and the device need no locks.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
            lane.waiting.add(rows)

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


class _Waiting:
    """Rows that wait for a place, document by document: those of one document share their cancel flag.

    However many rows wait, a look at them costs as much as there are documents.
    """

    def __init__(self) -> None:
        self._documents: dict[threading.Event, deque[Row]] = {}
        """In the order of their first rows; none is empty, and none begins with a row that has ended."""

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._documents.values())

    def __iter__(self) -> Iterator[threading.Event]:
        return iter(self._documents)

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._documents.setdefault(row.cancel, deque()).append(row)

    def first(self, document: threading.Event) -> Row:
        return self._documents[document][0]

    def take(self, document: threading.Event) -> Row:
        row = self._documents[document].popleft()
        self._pass_ended(document)
        return row

    def drop_ended(self) -> None:
        """Forget rows that have ended; those of documents that were cancelled end now."""
        for document, rows in list(self._documents.items()):
            if document.is_set():
                for row in rows:
                    row.end(Finish.CANCELLED)
            self._pass_ended(document)

    def clear(self) -> list[Row]:
        """Let go of all rows."""
        rows = [row for rows in self._documents.values() for row in rows]
        self._documents.clear()
        return rows

    def _pass_ended(self, document: threading.Event) -> None:
        """A row of this page may have ended it, and with it those behind, which come first now."""
        rows = self._documents[document]
        while rows and rows[0].done:
            rows.popleft()
        if not rows:
            del self._documents[document]


class _Lane:
    """One model's batch and the rows that wait for a place in it."""

    def __init__(
        self, model: LoadedModel, places: int, *, deterministic: bool = False, observer: Observer | None = None
    ) -> None:
        self._batch = DecodeBatch(model, width=fixed_width(places) if deterministic else None)
        self._places = places
        self._observer = observer or Observer()
        self.waiting = _Waiting()
        self._count = itertools.count(1)
        self._turns: dict[threading.Event, int] = {}
        """When each document last had a row taken in."""

    @property
    def idle(self) -> bool:
        return not self.waiting and not self._batch.rows

    @property
    def cache_bytes(self) -> int:
        return self._batch.cache_bytes

    def step(self) -> None:
        """Read the pictures of one group of rows that wait, then one step for all: nobody waits longer than that."""
        self.waiting.drop_ended()
        joining = self._take(self._places - len(self._batch.rows))
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

        So a long one holds up no short one. Among equals, the document goes first whose last turn is longest ago; a row of
        another shape ends the group.
        """
        share = Counter(row.cancel for row in self._batch.rows)
        present = {*share, *self.waiting}
        self._turns = {document: turn for document, turn in self._turns.items() if document in present}
        taken: list[Row] = []
        room = _NUMBERS_AT_ONCE
        while len(taken) < free and self.waiting:
            document = min(self.waiting, key=lambda one: (share[one], self._turns.get(one, 0)))
            row = self.waiting.first(document)
            room -= _numbers(row)
            if taken and (room < 0 or shape(row) != shape(taken[0])):
                break
            taken.append(self.waiting.take(document))
            share[document] += 1
            self._turns[document] = next(self._count)
        return taken

    def clear(self, error: OcrMlxError) -> None:
        self._batch.rows.extend(self.waiting.clear())
        self._batch.clear(error)


def _numbers(row: Row) -> int:
    """How much there is to read of a row's pictures."""
    arrays = (row.inputs.pixels, *row.inputs.extras.values())
    return sum(array.size for array in arrays if isinstance(array, np.ndarray))
