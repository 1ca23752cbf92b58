"""A model in the cache, from the moment somebody asks for it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from ocr_mlx.errors import Cancelled
from ocr_mlx.model.base import LoadedModel

LOOK: Final = 0.1
"""Seconds between looks at a caller's cancel flag."""


class Entry:
    """The cache's lock guards all of it but the model's future."""

    def __init__(self, key: str, name: str, now: float) -> None:
        self.key = key
        self.name = name
        self.leases = 0
        self.turn = 0
        """Counts the leases that were ever taken, so that a clock that fires late is known as such."""
        self.keep_alive = 0.0
        self.pinned = False
        self.leaving = False
        self.began = self.used = now
        """When loading began, and when the last lease ended."""
        self.size = 0
        """Bytes of the budget: none before room was made, what loading is expected to take, then what it took."""
        self.cancel: threading.Event | None = None
        """Of the caller that loads."""
        self.model: Future[LoadedModel] = Future()

    @property
    def loaded(self) -> LoadedModel | None:
        """The model, None as long as it is not in memory."""
        done = self.model.done() and self.model.exception() is None
        return self.model.result() if done else None

    @property
    def shown(self) -> str:
        """How it is called: by its id, else as whoever asked first called it."""
        return self.name if (model := self.loaded) is None else model.ref.id

    def wish(self, keep_alive: float | None, default: float) -> None:
        """Take in what a request asks for. A pin outlasts requests that ask for nothing."""
        wanted = default if keep_alive is None else keep_alive
        self.keep_alive = _longer(self.keep_alive, wanted) if self.leases else wanted
        if keep_alive is not None:
            self.pinned = keep_alive < 0 or (self.pinned and self.leases > 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """A load that wants `size` bytes since then."""

    entry: Entry
    size: int
    since: float


def _longer(one: float, other: float) -> float:
    """The longer of two times, negative being for good."""
    return min(one, other) if min(one, other) < 0 else max(one, other)


def loaded(model: Future[LoadedModel], cancel: threading.Event | None) -> LoadedModel:
    """The model when it is loaded. Raises what loading raised, and Cancelled."""
    while True:
        try:
            return model.result(timeout=LOOK if cancel is not None else None)
        except TimeoutError:
            if model.done():
                return model.result()
        if cancel is not None and cancel.is_set():
            raise Cancelled("The request was cancelled while the model was loading.")
