"""`POST /ocr` as a stream: a document's events, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ocr_mlx.client.errors import BadAnswer, OcrClientError, Refused, ServerFailed, TimedOut
from ocr_mlx.client.records import Event, Page
from ocr_mlx.client.sse import Message, Parser

ACCEPT = {"Accept": "text/event-stream"}
_GATEWAY_TIMEOUT = 504


class Follow:
    """A document as it is read. It is complete at the end; until then it says what is known so far.

    `texts` is the raw text of each page by number from 1, with what was taken back taken back; `pages` are those that are
    done, in the order in which they came; `statuses` are the document's, in its order, and come with `usage` and `seconds`.

    The events' kinds: `model_progress`, `document_started`, `page_started`, `text`, `rewind`, `page_done`, `document_done`.
    """

    def __init__(self) -> None:
        self.model = ""
        self.texts: dict[int, str] = {}
        self.pages: list[Page] = []
        self.statuses: tuple[str, ...] = ()
        self.usage: Mapping[str, int] = {}
        self.seconds: float | None = None
        self._over = False
        self._parser = Parser()

    @property
    def text(self) -> str:
        """The texts of the pages that are done, in page order, joined by a blank line."""
        return "\n\n".join(page.text for page in sorted(self.pages, key=lambda page: page.number) if page.text)

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that these bytes complete. Raises OcrClientError for an error that came on the way."""
        for message in self._parser.feed(piece):
            yield self._event(message)

    def end(self) -> None:
        """The connection is over. Raises ServerFailed when the document is not."""
        if not self._over:
            raise ServerFailed("The server broke off in the middle of the document. Repeat the call.")

    def _event(self, message: Message) -> Event:
        try:
            data = json.loads(message.data)
            if message.event == "error":
                raise _failure(data)
            page = self._take(message.event, data)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadAnswer("The server's events are not those of a document.") from error
        return Event(kind=message.event, data=data, id=message.id, page=page)

    def _take(self, kind: str, data: Mapping[str, Any]) -> Page | None:
        match kind:
            case "document_started":
                self.model = data["model"]
            case "text":
                self.texts[data["page"] + 1] = self.texts.get(data["page"] + 1, "") + data["delta"]
            case "rewind":
                self.texts[data["page"] + 1] = self.texts.get(data["page"] + 1, "")[: data["length"]]
            case "page_done":
                self.pages.append(page(data))
                return self.pages[-1]
            case "document_done":
                self.model, self.statuses = data["model"], tuple(data["statuses"])
                self.usage, self.seconds = data["usage"], data["seconds"]
                self._over = True
        return None


def page(data: Mapping[str, Any]) -> Page:
    """A page from the event that tells of it."""
    return Page(
        number=data["page"] + 1,
        status=data["status"],
        text=data["text"],
        confidence=data["confidence"],
        tokens=data["tokens"]["generated"],
        prompt_tokens=data["tokens"]["prompt"],
        seconds=data["seconds"],
        cached=data["cached"],
        error=(data["error"] or {}).get("message", ""),
    )


def _failure(data: Mapping[str, Any]) -> OcrClientError:
    """The error that ends a document."""
    status = int(data["status"])
    kind: type[OcrClientError] = Refused if status < 500 else TimedOut if status == _GATEWAY_TIMEOUT else ServerFailed
    return kind(str(data["message"]), status=status, code=str(data["code"]))
