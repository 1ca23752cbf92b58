"""What the engine needs of a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from ocr_mlx.domain import OcrRequest, Page
from ocr_mlx.errors import PageError, SourceError


class OpenDocument(Protocol):
    """A document whose pages can be had (`pages.load.Document`)."""

    @property
    def indices(self) -> tuple[int, ...]:
        """The selected pages."""
        ...

    def page(self, index: int, *, dpi: float, padding: int = 0) -> Page:
        """One page's pixels; called by two threads at once."""
        ...

    def close(self) -> None:
        """Let go of the bytes."""
        ...


Open = Callable[[OcrRequest], OpenDocument]
"""Fetch a request's source and open it; raises SourceError and PageError."""


def pictures(open_document: Open, request: OcrRequest, *, dpi: float, most: int) -> Iterator[Page | None]:
    """The first `most` selected pages as pixels, one at a time; None for one that cannot be had. Reads none.

    `dpi` is for PDFs where the request does not say. Raises SourceError and PageError where the document cannot be opened.
    """
    document = open_document(request)
    try:
        for index in document.indices[:most]:
            try:
                yield document.page(index, dpi=request.dpi or dpi, padding=request.padding)
            except (PageError, SourceError):
                yield None
    finally:
        document.close()
