"""What the calls give back. Frozen; no behaviour beyond derivation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WHOLE = frozenset({"ok", "blank", "loop_recovered"})
"""Statuses of pages whose text is all there."""
FINAL = frozenset({"completed", "failed", "cancelled"})
"""States after which nothing more happens to a job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A document's text. `model` is what read it; `counts` says how many pages came to which status.

    `statuses` are those of the pages in order; empty for a document of more than 200 pages, where the server only counts.
    """

    text: str
    model: str
    statuses: tuple[str, ...]
    counts: Mapping[str, int]

    def __str__(self) -> str:
        return self.text

    @property
    def is_whole(self) -> bool:
        """Whether the text of every page is all there."""
        return set(self.counts) <= WHOLE


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One page. `number` counts from 1; `status` is ok, blank, truncated, loop_recovered, loop_stopped, cancelled or failed.

    `confidence` is the mean probability of its tokens, None where there is none; `tokens` is how many were written and
    `prompt_tokens` how many went in, `seconds` how long it took, None where that is not known; `cached`: an earlier run gave
    the text; `error` says why a page failed.
    """

    number: int
    status: str
    text: str
    confidence: float | None = None
    tokens: int | None = None
    prompt_tokens: int | None = None
    seconds: float | None = None
    cached: bool = False
    error: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """An answer of the chat surface. `usage` holds the server's token counts, `statuses` those of the pages in order.

    `finish_reason` is `length` where a page's text was cut off.
    """

    text: str
    model: str
    finish_reason: str
    usage: Mapping[str, int]
    confidence: float | None
    statuses: tuple[str, ...]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A document that is read later. `state` is pending, processing, completed, failed or cancelled.

    `done` of `total` pages are read; `statuses` are theirs; `text` is there once the job is completed; `error` says why it
    failed; `raw` is the server's own answer.
    """

    id: str
    state: str
    filename: str = ""
    model: str = ""
    done: int = 0
    total: int = 0
    statuses: tuple[str, ...] = ()
    text: str = ""
    confidence: float | None = None
    error: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINAL


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a document, what the server says about it, and its id.

    `kind` is `progress`, `page` or `done` for a job; for a document that is followed see `Follow`. `page` is there for a page
    that is done.
    """

    kind: str
    data: Mapping[str, Any]
    id: str = ""
    page: Page | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model as the server's list has it. `progress` of a download is in percent."""

    name: str
    is_loaded: bool
    is_available: bool
    status: str
    progress: float | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """What the server can read with. `current` is what was switched to, None before that; `default` is for jobs."""

    models: tuple[Model, ...]
    current: str | None
    default: str
