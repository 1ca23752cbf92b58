from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from ocr_mlx.domain import OcrRequest, Page, Upload
from ocr_mlx.engine.document import pictures
from ocr_mlx.errors import BadPdf, SourceTooLarge


@dataclass
class Document:
    indices: tuple[int, ...] = (4, 1, 2, 0)
    asked: list[tuple[int, float, int]] = field(default_factory=list)
    closed: bool = False

    def page(self, index: int, *, dpi: float, padding: int = 0) -> Page:
        self.asked.append((index, dpi, padding))
        if index in (1, 2):
            raise BadPdf("Damaged.") if index == 1 else SourceTooLarge("Large.")
        image = Image.new("RGB", (3, 2))
        return Page(index=index, image=image, width=3, height=2, dpi=dpi, origin="pdf")

    def close(self) -> None:
        self.closed = True


def test_the_first_pages_one_at_a_time_and_none_for_bad_ones() -> None:
    document = Document()
    request = OcrRequest(source=Upload(data=b""), padding=3)
    drawn = pictures(lambda _request: document, request, dpi=144.0, most=3)
    first = next(drawn)
    assert first is not None and first.index == 4 and document.asked == [(4, 144.0, 3)]
    assert list(drawn) == [None, None] and document.closed and len(document.asked) == 3


def test_the_requests_own_resolution_counts_and_leaving_early_closes() -> None:
    document = Document()
    drawn = pictures(lambda _request: document, OcrRequest(source=Upload(data=b""), dpi=100.0), dpi=144.0, most=9)
    next(drawn)
    drawn.close()  # type: ignore[attr-defined]
    assert document.asked == [(4, 100.0, 0)] and document.closed
