"""The words of a PDF page's text layer, with their places on the rendered picture. Runs in the PDF process only."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as raw

Box = tuple[float, float, float, float]
WordRow = tuple[str, float, float, float, float]
"""text, left, top, right, bottom in pixels"""

_MOST_CHARACTERS = 200_000
"""More text than any page holds; a page that claims it would only cost time."""
_SOFT_HYPHENS = frozenset({0x02, 0xFFFE})
"""How pdfium marks a word that was hyphenated at the end of its line."""
_FINE = 1000


def read_words(page: pdfium.PdfPage, width: int, height: int) -> list[WordRow] | None:
    """Words in the file's own order on a picture of `width` x `height` pixels; None where the page has no text."""
    textpage = page.get_textpage()
    try:
        count = textpage.count_chars()
        if not 0 < count <= _MOST_CHARACTERS:
            return None
        to_pixels = _Transform(page, width, height)
        words = [to_pixels.word(text, box) for text, box in _page_words(textpage, count)]
    finally:
        textpage.close()
    return [word for word in words if _is_visible(word, width, height)] or None


def _page_words(textpage: pdfium.PdfTextPage, count: int) -> Iterator[tuple[str, Box]]:
    """Split at white space; boxes are left, bottom, right, top in points."""
    letters: list[int] = []
    boxes: list[Box] = []
    for index in range(count):
        code = raw.FPDFText_GetUnicode(textpage, index)
        code = ord("-") if code in _SOFT_HYPHENS else code
        if code > 0x20 and not chr(code).isspace():
            letters.append(code)
            boxes.append(_char_box(textpage, index))
        elif letters:
            yield _join(letters, boxes)
            letters, boxes = [], []
    if letters:
        yield _join(letters, boxes)


def _char_box(textpage: pdfium.PdfTextPage, index: int) -> Box:
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    raw.FPDFText_GetCharBox(textpage, index, left, right, bottom, top)
    return left.value, bottom.value, right.value, top.value


def _join(letters: list[int], boxes: list[Box]) -> tuple[str, Box]:
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    # Code points beyond 16 bits may come as two surrogates.
    text = "".join(map(chr, letters)).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text, (min(lefts), min(bottoms), max(rights), max(tops))


def _is_visible(word: WordRow, width: int, height: int) -> bool:
    _, left, top, right, bottom = word
    return right > 0 and bottom > 0 and left < width and top < height


class _Transform:
    """From points on the page to pixels on the picture, rotation and crop box included."""

    def __init__(self, page: pdfium.PdfPage, width: int, height: int) -> None:
        # pdfium answers in whole pixels, so it is asked about a picture that is much finer.
        self._page = page
        self._size = (width * _FINE, height * _FINE)
        page_width, page_height = page.get_size()
        self._x0, self._y0 = self._ask(0, 0)
        x1, y1 = self._ask(page_width, 0)
        x2, y2 = self._ask(0, page_height)
        self._dx = ((x1 - self._x0) / page_width, (y1 - self._y0) / page_width)
        self._dy = ((x2 - self._x0) / page_height, (y2 - self._y0) / page_height)

    def word(self, text: str, box: Box) -> WordRow:
        left, bottom, right, top = box
        ax, ay = self._point(left, bottom)
        bx, by = self._point(right, top)
        return text, min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)

    def _point(self, x: float, y: float) -> tuple[float, float]:
        return (
            round(self._x0 + x * self._dx[0] + y * self._dy[0], 2),
            round(self._y0 + x * self._dx[1] + y * self._dy[1], 2),
        )

    def _ask(self, x: float, y: float) -> tuple[float, float]:
        device_x, device_y = ctypes.c_int(), ctypes.c_int()
        arguments: Any = (self._page, 0, 0, *self._size, 0, x, y, device_x, device_y)
        if not raw.FPDF_PageToDevice(*arguments):
            raise pdfium.PdfiumError("no transformation")
        return device_x.value / _FINE, device_y.value / _FINE
