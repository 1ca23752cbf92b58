"""What is known of the engines that are asked: how many pages each has, and which requests it takes. No network here.

Callers may name any number of engines, so one without pages is forgotten, and what was learned of engines has an end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from ocr_mlx.engine.remote_chat import FORMS

MOST: Final = 256
"""Engines whose ways are kept."""
SECONDS: Final = 600.0
"""How long they are: another engine may run at the same address by then."""


@dataclass(kw_only=True, slots=True)
class _Place:
    free: asyncio.Semaphore
    pages: int = 0


@dataclass(kw_only=True, slots=True)
class Places:
    """Each engine gets `most` pages at a time. Belongs to one event loop."""

    most: int
    _engines: dict[str, _Place] = field(default_factory=dict)

    def __len__(self) -> int:
        """Engines that have pages, or for which some wait."""
        return len(self._engines)

    @asynccontextmanager
    async def one(self, engine: str) -> AsyncIterator[None]:
        """Wait for a place at this engine, and keep it."""
        place = self._engines.setdefault(engine, _Place(free=asyncio.Semaphore(self.most)))
        place.pages += 1
        try:
            async with place.free:
                yield
        finally:
            place.pages -= 1
            if not place.pages:
                del self._engines[engine]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """An index of FORMS, whether extras are refused, and since when that is known."""

    form: int
    strict: bool
    since: float


class Ways:
    """The fields that each engine takes beside a request's body: the best are tried first, refusals are remembered."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, _Way] = {}

    def __len__(self) -> int:
        """Engines that are known to take less than everything."""
        return len(self._known)

    def of(self, engine: str, extras: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The fields to send, best first. `extras` are some that not every engine knows."""
        known = self._fresh(engine)
        forms = FORMS[known.form :]
        if extras and not known.strict:
            yield {**forms[0], **extras}
        yield from forms

    def taken(self, engine: str, extras: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        """Note that the engine took a request with these fields; the oldest note goes where there are many."""
        known = self._fresh(engine)
        form = next(index for index, form in enumerate(FORMS) if form.items() <= fields.items())
        strict = known.strict or not extras.items() <= fields.items()
        if (form, strict) == (known.form, known.strict):
            return
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[engine] = _Way(form=form, strict=strict, since=self._clock())

    def _fresh(self, engine: str) -> _Way:
        known = self._known.get(engine)
        if known is not None and self._clock() - known.since <= SECONDS:
            return known
        self._known.pop(engine, None)
        return _Way(form=0, strict=False, since=0.0)
