"""Tells an observer of a document's pages as their events pass by."""

from __future__ import annotations

import time
from collections.abc import Callable

from ocr_mlx.domain import DocumentStarted, Event, OnEvent, PageDone, PageStarted, TextDelta
from ocr_mlx.observer import Observer


class Counted:
    """An `OnEvent` that passes everything on. Belongs to one run."""

    def __init__(self, on_event: OnEvent, observer: Observer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._on_event = on_event
        self._observer = observer
        self._clock = clock
        self._model = ""
        self._started: dict[int, float] = {}
        self._first: dict[int, float] = {}
        """Seconds to the first text, by page."""

    def __call__(self, event: Event) -> None:
        """Count it, then pass it on."""
        match event:
            case DocumentStarted():
                self._model = event.model
            case PageStarted():
                self._started[event.page] = self._clock()
            case TextDelta():
                self._first.setdefault(event.page, self._clock() - self._started[event.page])
            case PageDone():
                self._started.pop(event.result.index, None)
                first = self._first.pop(event.result.index, None)
                self._observer.page_done(self._model, event.result, None if event.result.cached else first)
        self._on_event(event)
