"""Work that may take long and cannot be interrupted, done where whoever asked for it need not wait for its end."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from ocr_mlx.domain import Event, OnEvent
from ocr_mlx.engine.held import Held
from ocr_mlx.engine.stop import Stop
from ocr_mlx.errors import Cancelled

T = TypeVar("T")
_LOOK: Final = 0.05
"""Seconds between two looks at the flag while nothing happens."""


def apart(work: Callable[[OnEvent], T], emit: OnEvent, stop: Stop, held: Held) -> T:
    """What `work` returns or raises; it runs on a thread of its own. Its events are told on this one.

    Raises Cancelled once `stop` is set: the work then goes on, and what it puts on the stack of `held` is given back when it
    ends. Where `emit` raises, the work's next event raises Cancelled.
    """
    events: SimpleQueue[Event | None] = SimpleQueue()
    results: list[T] = []
    problems: list[BaseException] = []
    unheard = threading.Event()
    ended: Future[None] = Future()

    def tell(event: Event) -> None:
        if unheard.is_set():
            raise _given_up()
        events.put(event)

    def run() -> None:
        try:
            results.append(work(tell))
        except BaseException as problem:
            problems.append(problem)
        finally:
            ended.set_result(None)
            events.put(None)

    held.hands.add(ended)
    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="ocr-apart", daemon=True).start()
    try:
        while (event := _next(events, stop)) is not None:
            emit(event)
    except BaseException:
        unheard.set()
        raise
    if problems:
        raise problems.pop()
    return results.pop()


def _next(events: SimpleQueue[Event | None], stop: Stop) -> Event | None:
    while not stop.is_set():  # before each event: a download may tell of more than anybody can wait between
        with suppress(Empty):
            return events.get(timeout=_LOOK)
    raise _given_up()


def _given_up() -> Cancelled:
    return Cancelled("The request was cancelled before its first page.")
