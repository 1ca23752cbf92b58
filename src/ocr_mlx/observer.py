"""What the engine tells whoever counts: called from its threads as things happen, so it must be quick and never raise.

And the line that it leaves in the log for each document.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter

from ocr_mlx.domain import OcrResult, PageResult
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.utils.logs import counted, fields

log = logging.getLogger(__name__)
_MOST_SHOWN = 100
_ELSEWHERE = "openai+"
_FOLDER_STARTS = ("/", "./", "../", "~")


class Observer:
    """Seconds are wall time, bytes are bytes. No call carries a word of a document. This one counts nothing."""

    def document_started(self) -> None:
        """A document was admitted."""

    def document_done(self, error: str, seconds: float) -> None:
        """It ended; `error` is the code of what ended it, empty where it has a result."""

    def page_done(self, model: str, result: PageResult, first_token_seconds: float | None) -> None:
        """A page has its result; the time to its first token counts from its start, None where it never had one."""

    def prefilled(self, rows: int, seconds: float) -> None:
        """One vision pass and the reading of its prompts."""

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """One decode step of that many rows, which gave that many tokens."""

    def waiting(self, rows: int) -> None:
        """So many rows now wait for a place in a batch."""

    def cache_bytes(self, held: int) -> None:
        """What the running batches' KV caches hold now."""

    def page_cache(self, hit: bool) -> None:
        """A page was looked up in the page cache."""

    def loaded(self, model: str, held: int, seconds: float) -> None:
        """A model is in memory."""

    def evicted(self, model: str, held: int, released: int) -> None:
        """A model was unloaded; `held` its weights' bytes, `released` by how much the process's memory really shrank."""


def report(result: OcrResult) -> None:
    """One line in the log for a document that is done: counts, and never a word of it."""
    pages = Counter(page.status.value for page in result.pages)
    usage, model = result.usage, shown_model(result.model)
    told = ", ".join(f"{number} {status}" for status, number in sorted(pages.items()))
    log.info(
        "document done: %s (%s) by %s in %.2f s, %s",
        counted(len(result.pages), "page"),
        told or "none",
        model,
        result.seconds,
        counted(usage.completion_tokens, "token"),
        extra=fields(
            event="document",
            model=model,
            pages=dict(sorted(pages.items())),
            cached=sum(page.cached for page in result.pages),
            prompt_tokens=usage.prompt_tokens,
            generated_tokens=usage.completion_tokens,
            seconds=round(result.seconds, 3),
        ),
    )


def shown_model(model: str) -> str:
    """A model's name for logs and labels: a folder's last part alone, no engine's address, plain characters, one line."""
    if model.startswith(_ELSEWHERE):
        model = model.partition("#")[2]
    elif model.startswith(_FOLDER_STARTS) or model.count("/") > 1:
        model = model.rstrip("/").rpartition("/")[2]
    return model.encode("unicode_escape").decode("ascii")[:_MOST_SHOWN]


def outcome_code(error: str) -> str:
    """`ok` for no error, the code of an error of this program, `error` for any other word."""
    return (error if error in _codes() else OcrMlxError.code) if error else "ok"


@functools.cache
def _codes() -> frozenset[str]:
    def below(kind: type[OcrMlxError]) -> set[str]:
        return {kind.code}.union(*map(below, kind.__subclasses__()))

    return frozenset(below(OcrMlxError))
