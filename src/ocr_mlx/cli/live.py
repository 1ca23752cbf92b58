"""A document's pages as they finish, in the order of its text: a page that is done early waits for those before it."""

from __future__ import annotations

from dataclasses import dataclass

from ocr_mlx.domain import DocumentStarted, Event, PageDone, PageResult, PageStarted, PageStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A page that is done; the `number`th of `total` results, counted from 1."""

    result: PageResult
    number: int
    total: int

    @property
    def place(self) -> str:
        """Which page of how many."""
        name = f"page {self.result.index + 1}"
        if self.result.index + 1 == self.number:
            return f"{name} of {self.total}"
        return f"{name} ({self.number} of {self.total})"


class InOrder:
    """One document's pages. Its events belong to one thread."""

    def __init__(self) -> None:
        self._order: list[int] = []
        self._total = self._given = 0
        self._started: set[int] = set()
        self._done: dict[int, PageResult] = {}

    def take(self, event: Event) -> list[Finished]:
        """The pages that are next in order now."""
        match event:
            case DocumentStarted():
                self._order = list(event.pages)
                self._total = len(event.pages)
            case PageStarted():
                self._started.add(event.page)
            case PageDone():
                self._done[event.result.index] = event.result
                return self._next()
        return []

    def _next(self) -> list[Finished]:
        found = []
        while self._order and (page := self._done.get(self._order[0])) is not None:
            if self._may_part(page):
                self._order.clear()  # the whole result says what is between this page and the next one
                break
            del self._order[0]
            self._given += 1
            found.append(Finished(result=page, number=self._given, total=self._total))
        return found

    def _may_part(self, page: PageResult) -> bool:
        """Whether pages that were to be read in one prompt with this one may come on their own."""
        unread = page.status is PageStatus.FAILED and page.index not in self._started
        return unread and self._order[1:2] != [page.index + 1]
