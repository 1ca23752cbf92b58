"""What is known of models on their way: being fetched, being loaded, or failed. Looking at it wakes none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from ocr_mlx.domain import Event, ModelProgress, OnEvent
from ocr_mlx.errors import Cancelled, OcrMlxError

_KEPT: Final = 100
"""Models that failed are forgotten beyond this many, the oldest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelState:
    """A model that is not in memory yet, or could not be had. `done` and `total` are bytes of the download, 0 where unknown."""

    stage: Literal["downloading", "loading", "failed"]
    done: int = 0
    total: int = 0
    message: str = ""


class ModelBoard:
    """Thread-safe."""

    def __init__(self, identity: Callable[[str], str] = str) -> None:
        """`identity` gives all names of one model the same key."""
        self._identity = identity
        self._lock = threading.Lock()
        self._states: dict[str, ModelState] = {}

    def get(self, name: str) -> ModelState | None:
        """What is going on, or how the last attempt failed; None for a model that rests, or is in memory."""
        key = self._identity(name)
        with self._lock:
            return self._states.get(key)

    @contextmanager
    def watching(self, name: str, on_event: OnEvent) -> Iterator[OnEvent]:
        """Follow one attempt to have a model: notes what the block tells the function it is given, and how it ends."""
        key = self._identity(name)

        def noted(event: Event) -> None:
            if isinstance(event, ModelProgress) and not event.licence and event.stage != "ready":
                self._put(key, ModelState(stage=event.stage, done=event.done, total=event.total))
            on_event(event)

        try:
            yield noted
        except Cancelled:
            self._forget(key)
            raise
        except Exception as problem:
            told = str(problem) if isinstance(problem, OcrMlxError) else f"It failed ({type(problem).__name__})."
            self._put(key, ModelState(stage="failed", message=told))
            raise
        except BaseException:
            self._forget(key)
            raise
        else:
            self._forget(key)

    def _put(self, key: str, state: ModelState) -> None:
        with self._lock:
            self._states.pop(key, None)
            self._states[key] = state
            failed = [name for name, one in self._states.items() if one.stage == "failed"]
            for name in failed[:-_KEPT]:
                del self._states[name]

    def _forget(self, key: str) -> None:
        with self._lock:
            self._states.pop(key, None)
