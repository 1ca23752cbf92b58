"""PDFs, opened and drawn in this process as the page process does it. A crash of pdfium's own is contained there."""

from __future__ import annotations

from scripts.fuzzing.parts import typed

from ocr_mlx.pages.pdf import PdfFile

_PAGES = 2
_PIXELS = 250_000


def one(data: bytes) -> None:
    """Draw the first pages, with their words."""
    with typed():
        document = PdfFile(data, None)
        assert document.page_count >= 1
        for index in range(min(document.page_count, _PAGES)):
            with typed():
                drawn = document.draw(index, 72.0, _PIXELS, 14_400.0)
                assert 0 < drawn.width * drawn.height <= _PIXELS
                assert sum(memoryview(row).nbytes for row in drawn.rows) == 3 * drawn.width * drawn.height
                assert all(word[0].strip() for word in drawn.words or ())
        document.close()
