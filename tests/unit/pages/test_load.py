from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from ocr_mlx.domain import Page, Word
from ocr_mlx.errors import BadImage, PageOutOfRange, SourceTooLarge, UnsupportedMedia
from ocr_mlx.pages.load import Document, PageLimits, open_document

Encode = Callable[..., bytes]
Opened = Callable[..., Document]
MakePdf = Callable[..., bytes]
TEXT = "BT /F 20 Tf 20 50 Td (Hello there) Tj ET"


def test_the_pages_asked_for_in_their_order(opened: Opened, make_pdf: MakePdf) -> None:
    document = opened(make_pdf("", "", "", ""), page_range="4,1-2")
    assert document.page_count == 4
    assert document.indices == (3, 0, 1)
    assert document.page(2, dpi=72).index == 2


def test_a_range_beyond_the_end_says_how_many_pages_there_are(opened: Opened, make_pdf: MakePdf) -> None:
    with pytest.raises(PageOutOfRange, match="2 pages"):
        opened(make_pdf("", ""), page_range="1-3")


def test_the_page_limit_counts_the_pages_asked_for(opened: Opened, make_pdf: MakePdf) -> None:
    data = make_pdf(*[""] * 9)
    assert opened(data, page_range="3-5", max_pages=3).indices == (2, 3, 4)
    with pytest.raises(SourceTooLarge, match="9 pages") as caught:
        opened(data, max_pages=3)
    assert "1-3" in caught.value.hint


def test_bytes_are_limited_before_anything_is_parsed(opened: Opened) -> None:
    with pytest.raises(SourceTooLarge):
        opened(b"not even an image", max_bytes=5)


def test_nothing_at_all(opened: Opened) -> None:
    with pytest.raises(UnsupportedMedia, match="empty"):
        opened(b"")


def test_what_cannot_be_read_is_named_with_what_can(opened: Opened) -> None:
    with pytest.raises(UnsupportedMedia, match="SVG") as caught:
        opened(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert all(
        kind in caught.value.hint for kind in ("PDF", "PNG", "JPEG", "WebP", "TIFF", "GIF", "BMP", "HEIC", "AVIF")
    )


@pytest.mark.parametrize(("padding", "size"), [(10, (60, 50)), (0, (40, 30)), (-5, (30, 20)), (-14, (12, 2))])
def test_padding(opened: Opened, encode: Encode, padding: int, size: tuple[int, int]) -> None:
    page = opened(encode(Image.new("RGB", (40, 30), (9, 9, 9)))).page(0, dpi=96, padding=padding)
    assert (page.width, page.height) == page.image.size == size
    assert page.image.getpixel((size[0] // 2, size[1] // 2)) == (9, 9, 9)
    assert page.image.getpixel((0, 0)) == ((255, 255, 255) if padding > 0 else (9, 9, 9))


def test_cropping_everything_away_is_an_error_of_that_page(opened: Opened, encode: Encode) -> None:
    document = opened(encode(Image.new("RGB", (40, 30))))
    with pytest.raises(BadImage, match="40 x 30") as caught:
        document.page(0, dpi=96, padding=-15)
    assert caught.value.hint
    assert document.page(0, dpi=96).width == 40


def test_padding_keeps_the_pixel_limit(opened: Opened, encode: Encode) -> None:
    with pytest.raises(SourceTooLarge, match="padding"):
        opened(encode(Image.new("L", (10, 10))), max_pixels=120).page(0, dpi=96, padding=1)


def test_padding_moves_the_text_layer(opened: Opened, make_pdf: MakePdf) -> None:
    document = opened(make_pdf(TEXT))
    plain, padded = document.page(0, dpi=72).text_layer, document.page(0, dpi=72, padding=7).text_layer
    assert plain is not None
    assert padded is not None
    assert [word.text for word in padded] == ["Hello", "there"]
    for before, after in zip(plain, padded, strict=True):
        assert after.box == pytest.approx([edge + 7 for edge in before.box])


def test_words_that_are_cropped_away_are_gone(opened: Opened, make_pdf: MakePdf) -> None:
    edges = "BT /F 8 Tf 2 92 Td (edge) Tj 80 -45 Td (middle) Tj ET"
    page = opened(make_pdf(edges)).page(0, dpi=72, padding=-25)
    assert page.text_layer is not None
    assert [word.text for word in page.text_layer] == ["middle"]
    assert opened(make_pdf("BT /F 8 Tf 2 92 Td (edge) Tj ET")).page(0, dpi=72, padding=-25).text_layer is None


class _Broken:
    """A reader whose third page is bad, and which notes that it was closed."""

    page_count = 3
    closed = False

    def read(self, index: int, dpi: float) -> Page:
        if index == 2:
            raise BadImage("bad")
        image = Image.new("RGB", (4, 4))
        words = (Word(text="a", box=(0, 0, 1, 1)),)
        return Page(index=index, image=image, width=4, height=4, dpi=dpi, origin="pdf", text_layer=words)

    def close(self) -> None:
        self.closed = True


def test_a_bad_page_leaves_the_others() -> None:
    reader = _Broken()
    with Document(reader, (0, 1, 2), PageLimits()) as document:
        with pytest.raises(BadImage):
            document.page(2, dpi=1)
        assert document.page(1, dpi=1).index == 1
    assert reader.closed


def test_a_bad_range_closes_the_document() -> None:
    reader = _Broken()

    class Renderer:
        def open(self, data: bytes, **_: Any) -> _Broken:
            return reader

    with pytest.raises(PageOutOfRange):
        open_document(b"%PDF-", limits=PageLimits(), renderer=Renderer(), page_range="4")  # type: ignore[arg-type]
    assert reader.closed
