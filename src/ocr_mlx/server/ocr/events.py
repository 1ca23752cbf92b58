"""A document's events on the wire: plain records, the same as server-sent events and as lines of JSON.

The `text` pieces of a page, cut where a `rewind` says so, are its raw text when `page_done` comes, whatever happened on
the way.
"""

from __future__ import annotations

from typing import Any, assert_never

from ocr_mlx.domain import (
    DocumentDone,
    DocumentStarted,
    Event,
    ModelProgress,
    OcrResult,
    PageDone,
    PageResult,
    PageStarted,
    TextDelta,
    TextRewind,
)
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.observer import shown_model
from ocr_mlx.outputs.formats import page_record, usage_record
from ocr_mlx.outputs.outcome import failure
from ocr_mlx.server.errors import status_of, status_of_code

Record = dict[str, Any]
NAMES = (
    *("model_progress", "document_started", "page_started", "text", "rewind", "page_done", "document_done"),
    "error",
)
"""Of the events, in the order in which they first come. The last one is `document_done`, or `error`."""


class Records:
    """One document's events as records."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        """What the pieces of the pages that are not done come to."""

    def take(self, event: Event) -> list[Record]:
        """What an event is on the wire."""
        match event:
            case ModelProgress():
                return [_progress(event)]
            case DocumentStarted():
                return [{"event": "document_started", "model": shown_model(event.model), "pages": list(event.pages)}]
            case PageStarted():
                return [{"event": "page_started", "page": event.page}]
            case TextDelta():
                return [self._text(event.page, event.text, event.tokens)]
            case TextRewind():
                return [self._rewind(event.page, event.length)]
            case PageDone():
                return [*self._rest(event.result), _done(event.result)]
            case DocumentDone():
                return [_end(event.result)]
        assert_never(event)

    def _text(self, page: int, text: str, tokens: int) -> Record:
        self._texts[page] = self._texts.get(page, "") + text
        return {"event": "text", "page": page, "delta": text, "tokens": tokens}

    def _rewind(self, page: int, length: int) -> Record:
        self._texts[page] = self._texts.get(page, "")[:length]
        return {"event": "rewind", "page": page, "length": length}

    def _rest(self, result: PageResult) -> list[Record]:
        """What makes the pieces the raw text, where they are not: an earlier run's text, or what was read in vain."""
        page, raw = result.index, result.raw_text
        said = self._texts.pop(page, "")
        kept = _alike(said, raw)
        rest = [self._rewind(page, kept)] if kept < len(said) else []
        rest += [self._text(page, raw[kept:], 0)] if kept < len(raw) else []
        self._texts.pop(page, None)
        return rest


def error_record(error: OcrMlxError) -> Record:
    """The last event of a document that cannot be read; `status` is what a plain answer would have had."""
    return _error(error.code, str(error), status_of(type(error)))


def failure_record(result: OcrResult) -> Record | None:
    """The same for a document whose pages came to nothing; None where they did not."""
    bad = failure(result)
    return None if bad is None else _error(bad.code, bad.message, status_of_code(bad.code))


def internal_record() -> Record:
    """The same for what nobody expected."""
    return _error(OcrMlxError.code, "Internal error. The server's log has the trace under this request's id.", 500)


def _alike(one: str, other: str) -> int:
    """How many characters two texts have in common from the start."""
    if other.startswith(one):
        return len(one)
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))


def _error(code: str, message: str, status: int) -> Record:
    return {"event": "error", "code": code, "message": message, "status": status}


def _progress(event: ModelProgress) -> Record:
    told: Record = {"event": "model_progress", "model": shown_model(event.model), "stage": event.stage}
    told |= {"done": event.done, "total": event.total}
    return told | ({"licence": event.licence} if event.licence else {})


def _done(result: PageResult) -> Record:
    return {"event": "page_done", "page": result.index} | page_record(result)


def _end(result: OcrResult) -> Record:
    return {
        "event": "document_done",
        "model": shown_model(result.model),
        "statuses": [page.status.value for page in result.pages for _ in (page.index, *page.following)],
        "usage": usage_record(result),
        "seconds": round(result.seconds, 4),
    }
