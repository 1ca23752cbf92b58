"""What the engine tells whoever counts: called from its threads as things happen, so it must be quick and never raise."""

from __future__ import annotations

from typing import Protocol

from ocr_mlx.domain import PageResult


class Observer(Protocol):
    """Seconds are wall time, bytes are bytes. No call carries a word of a document."""

    def document_started(self) -> None:
        """A document was admitted."""
        ...

    def document_done(self, error: str, seconds: float) -> None:
        """It ended; `error` is the code of what ended it, empty where it has a result."""
        ...

    def page_done(self, model: str, result: PageResult, first_token_seconds: float | None) -> None:
        """A page has its result; the time to its first token counts from its start, None where it never had one."""
        ...

    def prefilled(self, rows: int, seconds: float) -> None:
        """One vision pass and the reading of its prompts."""
        ...

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """One decode step of that many rows, which gave that many tokens."""
        ...

    def waiting(self, rows: int) -> None:
        """So many rows now wait for a place in a batch."""
        ...

    def cache_bytes(self, held: int) -> None:
        """What the running batches' KV caches hold now."""
        ...

    def page_cache(self, hit: bool) -> None:
        """A page was looked up in the page cache."""
        ...

    def loaded(self, model: str, held: int, seconds: float) -> None:
        """A model is in memory."""
        ...

    def evicted(self, model: str, held: int, released: int) -> None:
        """A model was unloaded; `held` its weights' bytes, `released` by how much the process's memory really shrank."""
        ...


class Silent:
    """Counts nothing."""

    def document_started(self) -> None:
        """See Observer."""

    def document_done(self, error: str, seconds: float) -> None:
        """See Observer."""

    def page_done(self, model: str, result: PageResult, first_token_seconds: float | None) -> None:
        """See Observer."""

    def prefilled(self, rows: int, seconds: float) -> None:
        """See Observer."""

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """See Observer."""

    def waiting(self, rows: int) -> None:
        """See Observer."""

    def cache_bytes(self, held: int) -> None:
        """See Observer."""

    def page_cache(self, hit: bool) -> None:
        """See Observer."""

    def loaded(self, model: str, held: int, seconds: float) -> None:
        """See Observer."""

    def evicted(self, model: str, held: int, released: int) -> None:
        """See Observer."""
