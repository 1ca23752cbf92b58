"""From bytes to pages: the one way into a document, whatever it is."""

from __future__ import annotations

import dataclasses
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from ocr_mlx.domain import Box, Page, Word
from ocr_mlx.errors import BadImage, PageOutOfRange, SourceTooLarge, UnsupportedMedia
from ocr_mlx.pages import media
from ocr_mlx.pages.fetch import check_size
from ocr_mlx.pages.limits import PageLimits
from ocr_mlx.pages.ranges import parse_page_range

if TYPE_CHECKING:
    from ocr_mlx.pages.pool import PageProcesses

__all__ = ["Document", "PageLimits", "open_document", "parse_page_range"]


class _Reader(Protocol):
    page_count: int

    def read(self, index: int, dpi: float) -> Page: ...

    def close(self) -> None: ...


class Document:
    """An open document. `page_count` pages in all; `indices` are the ones asked for, from 0, in the order asked.

    A context manager, or call `close()`. Pages may be read from several threads and in any order.
    """

    def __init__(self, reader: _Reader, indices: tuple[int, ...], limits: PageLimits) -> None:
        self._reader = reader
        self._limits = limits
        self.indices = indices

    @property
    def page_count(self) -> int:
        """How many pages the document has, asked for or not."""
        return self._reader.page_count

    def page(self, index: int, *, dpi: float, padding: int = 0) -> Page:
        """Decode or draw one page; `padding` white pixels are added on every side, or cropped where negative.

        `dpi` is for PDFs. A page that cannot be had raises a PageError, SourceTooLarge or UnsupportedMedia; the others
        stay usable.
        """
        if not 0 <= index < self.page_count:
            raise PageOutOfRange(f"There is no page {index + 1}; the document has {self.page_count}.")
        page = self._reader.read(index, dpi)
        return _pad(page, padding, self._limits.max_pixels) if padding else page

    def close(self) -> None:
        """Let the document go."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_document(
    data: bytes, *, limits: PageLimits, renderer: PageProcesses, page_range: str = "", password: str | None = None
) -> Document:
    """Open an image or a PDF; the bytes decide which it is. `page_range` is text such as `1-3,7`, empty for all pages.

    UnsupportedMedia, SourceTooLarge, BadImage, BadPdf, PdfLocked, PageOutOfRange.
    """
    check_size(len(data), limits.max_bytes)
    reader = _open_reader(data, limits, renderer, password)
    try:
        return Document(reader, _select(page_range, reader.page_count, limits.max_pages), limits)
    except BaseException:
        reader.close()
        raise


def _open_reader(data: bytes, limits: PageLimits, renderer: PageProcesses, password: str | None) -> _Reader:
    kind = media.detect(data)
    if kind is None:
        what = f"The document is {media.describe(data)}" if data else "The document is empty (0 bytes)"
        raise UnsupportedMedia(f"{what}.", hint=f"These can be read: {media.SUPPORTED}.")
    return renderer.open(data, kind=kind, limits=limits, password=password)


def _select(page_range: str, count: int, most: int) -> tuple[int, ...]:
    indices = parse_page_range(page_range, count)
    if len(indices) > most:
        raise SourceTooLarge(
            f"{len(indices):,} pages were asked for; at most {most:,} are read at once.",
            hint=f"Read it in parts, with page ranges such as 1-{most}.",
        )
    return indices


def _pad(page: Page, padding: int, most: int) -> Page:
    from ocr_mlx.utils.image import pad

    width, height = page.width + 2 * padding, page.height + 2 * padding
    if width < 1 or height < 1:
        raise BadImage(
            f"A padding of {padding} crops away the whole page, which has {page.width} x {page.height} pixels.",
            hint="Crop less: a negative padding is cut off every side.",
        )
    if width * height > most:
        raise SourceTooLarge(
            f"A padding of {padding} makes the page larger than {most:,} pixels.", hint="Use less padding."
        )
    layer = None if page.text_layer is None else _shift(page.text_layer, padding, width, height)
    return dataclasses.replace(page, image=pad(page.image, padding), width=width, height=height, text_layer=layer)


def _shift(words: tuple[Word, ...], by: int, width: int, height: int) -> tuple[Word, ...] | None:
    """The words that are still on the page, at their new places."""
    moved = [Word(text=word.text, box=_moved(word.box, by)) for word in words]
    return tuple(w for w in moved if w.box[2] > 0 and w.box[3] > 0 and w.box[0] < width and w.box[1] < height) or None


def _moved(box: Box, by: int) -> Box:
    left, top, right, bottom = box
    return left + by, top + by, right + by, bottom + by
