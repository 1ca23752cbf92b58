"""Text as it comes, in page order, such that the pieces together are the text of the whole answer.

What a model says and what its family makes of it differ: marks go, formulas are mended. So only words that no cleaning
touches are let out while a page is decoded, up to the first sign that could be a mark; the rest of the page follows when
it is done. Where the model's own words are the answer, all of them are let out at once.

What has been let out cannot be taken back, and a loop is: so nothing is let out that only repeats what came before it.
Where other words were let out than stay all the same, the answer's end says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ocr_mlx.domain import DocumentDone, Event, PageDone, PageResult, PageStarted, PageStatus, TextDelta, TextRewind
from ocr_mlx.server.openai.answers import joined, text_of
from ocr_mlx.server.openai.convert import Ask

_GAPS: Final = ("", " ", "\n", "\n\n")
_MARK: Final = re.compile(r"[<>\\$*_#\[\]{}|`~^=&@\ufffd]|^[-+•·.:]+$")
"""What a word holds that some family's cleaning could change, or is where it begins a list or stands alone.

A single letter with a line of its own at the top of a page is another thing that is cleaned away.
"""
_PIECE: Final = re.compile(r"(\s*)(\S+)")
_FARTHEST: Final = 1000
"""Characters from a repetition to what it repeats; what lies further back is no loop."""


class LiveText:
    """One document's text on its way out."""

    def __init__(self, ask: Ask, pages: Sequence[int], *, before: bool) -> None:
        """`pages` are the results to come; `before`: text has been let out already, so a blank line comes first."""
        self._ask = ask
        self._order = list(pages)
        self._before = before
        self._raw: dict[int, str] = {}
        self._started: set[int] = set()
        self._done: dict[int, PageResult] = {}
        self._ended: set[int] = set()
        self._sent: dict[int, str] = {}
        self._held: set[int] = set()
        self.differing: dict[int, str] = {}
        """Texts of pages of which more or other words were let out than stay."""

    @property
    def spoke(self) -> bool:
        """Whether anything has been let out, here or before."""
        return self._before

    def take(self, event: Event) -> str:
        """What an event lets out."""
        match event:
            case PageStarted():
                self._started.add(event.page)
            case TextDelta():
                self._raw[event.page] = self._raw.get(event.page, "") + event.text
                return self._live(event.page)
            case TextRewind():
                self._raw[event.page] = self._raw.get(event.page, "")[: event.length]
                self._held.discard(event.page)
            case PageDone():
                self._done[event.result.index] = event.result
                return self._advance()
            case DocumentDone():
                left = [page for page in event.result.pages if page.index not in self._ended]
                return "".join(self._end(page) for page in left)
        return ""

    def _advance(self) -> str:
        """End the pages that are done and next in order, and begin the one after them."""
        out = ""
        while self._order and (page := self._done.get(self._order[0])) is not None:
            if self._may_part(page):
                self._order.clear()  # its neighbours come by themselves; the document's end says in which order
                break
            self._order.pop(0)
            out += self._end(page)
        return out + (self._live(self._order[0]) if self._order else "")

    def _may_part(self, page: PageResult) -> bool:
        """Whether pages that no one has announced may take the place of this one, which was to be read with them."""
        unread = page.status is PageStatus.FAILED and page.index not in self._started
        return unread and self._order[1:2] != [page.index + 1]

    def _live(self, page: int) -> str:
        if not self._order or page != self._order[0] or page in self._held:
            return ""
        sent, raw = self._sent.get(page, ""), self._raw.get(page, "").lstrip()
        if not raw.startswith(sent):  # taken back, and not said again yet
            return ""
        fresh = raw[: len(raw) - repeated(raw)][len(sent) :]
        return self._say(page, self._certain(page, fresh, bool(sent)))

    def _certain(self, page: int, text: str, begun: bool) -> str:
        """As much of `text` as is sure to stay: whole words, each once the next one begins."""
        if self._ask.verbatim:
            return text.rstrip()
        sure = 0
        for piece in _PIECE.finditer(text):
            gap, word = piece.groups()
            rest = text[piece.end() :]
            initial = not begun and len(word) == 1 and rest.startswith("\n")
            if gap not in _GAPS or initial or _MARK.search(word):
                if rest:
                    self._held.add(page)
                break
            if not rest.strip():
                break
            sure, begun = piece.end(), True
        return text[:sure]

    def _end(self, page: PageResult) -> str:
        self._ended.add(page.index)
        text, sent = text_of(page, self._ask), self._sent.get(page.index, "")
        if text.startswith(sent):
            return self._say(page.index, text[len(sent) :])
        self.differing[page.index] = text
        return ""

    def _say(self, page: int, text: str) -> str:
        if not text:
            return ""
        out = text if page in self._sent else joined(text, self._before)
        self._sent[page] = self._sent.get(page, "") + text
        self._before = True
        return out.encode("utf-8", "replace").decode()


def repeated(text: str) -> int:
    """How many characters at the end of `text` are those that stand a little before, in the same order."""
    low, high = 0, len(text)
    while low < high:  # where a long end is found again, so is every shorter one
        length = (low + high + 1) // 2
        before = text[max(0, len(text) - length - _FARTHEST) : -1]
        if text[-length:] in before:
            low = length
        else:
            high = length - 1
    return low
