"""PDF files, opened and drawn by pdfium. Runs in a page process only."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from ocr_mlx.errors import BadPdf, OcrMlxError, PdfLocked, SourceTooLarge
from ocr_mlx.pages.limits import MIN_DPI
from ocr_mlx.pages.media import repair
from ocr_mlx.pages.pdf_text import WordRow, read_words

_POINTS_PER_INCH: Final = 72
_REPAIR: Final = repair("PDF")


class DrawnPage(NamedTuple):
    """`rows` together are the RGB of all pixels; `words` in the file's order, None where the page has no text."""

    width: int
    height: int
    dpi: float
    words: list[WordRow] | None
    rows: Iterable[memoryview]


class PdfFile:
    """One PDF. Not safe for threads, like pdfium."""

    def __init__(self, data: bytes, password: str | None) -> None:
        """BadPdf, or PdfLocked where the password is missing or wrong."""
        with _typed():
            self._document = _open(data, password)
            self.page_count = len(self._document)
        if self.page_count < 1:
            self._document.close()
            raise BadPdf("The PDF has no pages.", hint=_REPAIR)

    def draw(self, index: int, dpi: float, max_pixels: int, max_page_points: float) -> DrawnPage:
        """Page `index`, at `dpi` or at less where it would have too many pixels. BadPdf, SourceTooLarge."""
        with _typed():
            page = self._document[index]
            try:
                dpi = _fitting_dpi(page.get_size(), dpi, max_pixels, max_page_points)
                bitmap = page.render(scale=dpi / _POINTS_PER_INCH, rev_byteorder=True, limit_image_cache=True)
                words = _words(page, bitmap.width, bitmap.height)
            finally:
                page.close()
            return DrawnPage(bitmap.width, bitmap.height, dpi, words, _rows(bitmap))

    def close(self) -> None:
        """Let it go."""
        self._document.close()


@contextlib.contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except (pdfium.PdfiumError, MemoryError, OSError, ValueError) as error:
        raise BadPdf("This page of the PDF is damaged.", hint=_REPAIR) from error


def _open(data: bytes, password: str | None) -> pdfium.PdfDocument:
    _forget_last_error()
    try:
        document = pdfium.PdfDocument(data, password=password)
    except pdfium.PdfiumError as error:
        raise _translate(raw.FPDF_GetLastError(), bool(password)) from error
    with contextlib.suppress(pdfium.PdfiumError):  # a broken form still leaves the page beneath it
        document.init_forms()
    return document


def _forget_last_error() -> None:
    """For a PDF without pages pdfium gives no reason; then the one it gave for an earlier document must not stand."""
    raw.FPDF_LoadMemDocument(b"-", 1, None)


def _translate(code: int, has_password: bool) -> OcrMlxError:
    if code == raw.FPDF_ERR_PASSWORD and has_password:
        return PdfLocked("The password does not open this PDF.", hint="Check it; capitals and small letters differ.")
    if code == raw.FPDF_ERR_PASSWORD:
        return PdfLocked("The PDF is locked with a password.", hint="Give its password with the request.")
    if code == raw.FPDF_ERR_SECURITY:
        return PdfLocked("The PDF is encrypted in a way that is not supported.", hint="Save it without encryption.")
    return BadPdf("The PDF is damaged or has no pages.", hint=_REPAIR)


def _words(page: pdfium.PdfPage, width: int, height: int) -> list[WordRow] | None:
    try:
        return read_words(page, width, height)
    except pdfium.PdfiumError:  # the picture is what counts
        return None


def _fitting_dpi(size: tuple[float, float], dpi: float, most_pixels: int, most_points: float) -> float:
    """The resolution asked for, or the highest at which the page keeps the pixel limit. `size` in points."""
    width, height = size
    if not max(width, height) <= most_points:
        raise SourceTooLarge(
            f"The PDF page measures {width:.0f} x {height:.0f} points; at most {most_points:g} are allowed.",
            hint="Print it to a smaller page size.",
        )
    scale = dpi / _POINTS_PER_INCH
    if math.ceil(width * scale) * math.ceil(height * scale) <= most_pixels:
        return dpi
    # Each side may round up by one pixel: (w s + 1)(h s + 1) = most, solved for s.
    half = (width + height) / 2
    largest = (math.sqrt(half * half + width * height * (most_pixels - 1)) - half) / (width * height)
    if largest * _POINTS_PER_INCH < MIN_DPI:
        raise SourceTooLarge(
            f"The PDF page is too large to draw: {width:.0f} x {height:.0f} points in {most_pixels:,} pixels.",
            hint="Print it to a smaller page size.",
        )
    return largest * _POINTS_PER_INCH


def _rows(bitmap: pdfium.PdfBitmap) -> Iterable[memoryview]:
    """RGB without the padding that pdfium puts behind each row."""
    pixels = memoryview(bitmap.buffer).cast("B")
    row = bitmap.width * 3
    if bitmap.stride == row:
        return [pixels[: row * bitmap.height]]
    return [pixels[at : at + row] for at in range(0, bitmap.stride * bitmap.height, bitmap.stride)]
