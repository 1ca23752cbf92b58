from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ocr_mlx.errors import BadPdf, PdfLocked, SourceTooLarge
from ocr_mlx.pages import pdf
from ocr_mlx.pages.load import Document

Opened = Callable[..., Document]
MakePdf = Callable[..., bytes]
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
CORNER = "1 0 0 rg 0 80 20 20 re f"
"""A red square at the top left of a page of 200 x 100 points."""


def ink(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> tuple[int, int, int, int]:
    """The box around everything dark, inside `box`."""
    dark = np.asarray(image.convert("L")) < 128
    if box is not None:
        mask = np.zeros_like(dark)
        left, top, right, bottom = (round(edge) for edge in box)
        mask[max(top, 0) : bottom, max(left, 0) : right] = True
        dark &= mask
    rows, columns = np.nonzero(dark.any(1))[0], np.nonzero(dark.any(0))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def test_a_page_at_a_resolution(opened: Opened, make_pdf: MakePdf) -> None:
    document = opened(make_pdf(CORNER))
    page = document.page(0, dpi=144)
    assert (page.width, page.height) == page.image.size == (400, 200)
    assert (page.index, page.dpi, page.origin, page.text_layer) == (0, 144, "pdf", None)
    assert page.image.mode == "RGB"
    assert [page.image.getpixel(at) for at in [(5, 5), (38, 38), (42, 38), (5, 100)]] == [RED, RED, WHITE, WHITE]


def test_a_width_that_is_no_multiple_of_four(opened: Opened, make_pdf: MakePdf) -> None:
    page = opened(make_pdf("0 0 1 rg 0 0 33 50 re f", box="0 0 33 50")).page(0, dpi=72)
    assert page.image.size == (33, 50)
    assert page.image.getcolors() == [(33 * 50, (0, 0, 255))]


@pytest.mark.parametrize(
    ("rotate", "size", "place"),
    [(0, (200, 100), (5, 5)), (90, (100, 200), (95, 5)), (180, (200, 100), (195, 95)), (270, (100, 200), (5, 195))],
)
def test_rotation(
    opened: Opened, make_pdf: MakePdf, rotate: int, size: tuple[int, int], place: tuple[int, int]
) -> None:
    page = opened(make_pdf(CORNER, page=f"/Rotate {rotate}")).page(0, dpi=72)
    assert page.image.size == size
    assert page.image.getpixel(place) == RED
    assert page.image.getpixel((size[0] - place[0] - 1, size[1] - place[1] - 1)) == WHITE


def test_the_crop_box_is_the_page(opened: Opened, make_pdf: MakePdf) -> None:
    page = opened(make_pdf(CORNER, page="/CropBox [10 60 110 100]")).page(0, dpi=72)
    assert page.image.size == (100, 40)
    assert [page.image.getpixel(at) for at in [(5, 15), (12, 15), (5, 25)]] == [RED, WHITE, WHITE]


def test_annotations_are_drawn(opened: Opened, make_pdf: MakePdf) -> None:
    look = (
        "<< /Type /XObject /Subtype /Form /BBox [0 0 50 50] /Length 25 >>\nstream\n1 0 0 rg 0 0 50 50 re f  \nendstream"
    )
    note = "<< /Type /Annot /Subtype /Stamp /Rect [50 20 100 70] /F 4 /AP << /N 4 0 R >> >>"
    page = opened(make_pdf("", page="/Annots [5 0 R]", more=(look, note))).page(0, dpi=72)
    assert page.image.getpixel((75, 50)) == RED


def test_form_fields_are_drawn(opened: Opened, make_pdf: MakePdf) -> None:
    look = (
        "<< /Type /XObject /Subtype /Form /BBox [0 0 50 50] /Length 25 >>\nstream\n1 0 0 rg 0 0 50 50 re f  \nendstream"
    )
    field = "<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /V (x) /Rect [50 20 100 70] /F 4 /AP << /N 4 0 R >> >>"
    form = "/AcroForm << /Fields [5 0 R] /DA (/F 10 Tf) >>"
    page = opened(make_pdf("", page="/Annots [5 0 R]", more=(look, field), catalog=form)).page(0, dpi=72)
    found = page.image.getpixel((75, 50))
    assert isinstance(found, tuple)
    assert found[0] > found[1]  # pdfium may lay its highlight over the field


TWO_WORDS = "BT /F 18 Tf 30 40 Td (Mask) Tj 60 10 Td (WIDE) Tj ET"


@pytest.mark.parametrize("dpi", [72, 200])
@pytest.mark.parametrize("page", ["", "/Rotate 90", "/Rotate 180", "/Rotate 270", "/CropBox [20 20 190 90]"])
def test_words_lie_on_their_ink(opened: Opened, make_pdf: MakePdf, page: str, dpi: int) -> None:
    drawn = opened(make_pdf(TWO_WORDS, page=page)).page(0, dpi=dpi)
    assert drawn.text_layer is not None
    assert [word.text for word in drawn.text_layer] == ["Mask", "WIDE"]
    for word in drawn.text_layer:
        left, top, right, bottom = word.box
        found = ink(drawn.image, (left - 5, top - 5, right + 5, bottom + 5))
        assert found == pytest.approx(word.box, abs=2)


def test_invisible_text_is_in_the_layer_and_not_on_the_picture(opened: Opened, make_pdf: MakePdf) -> None:
    page = opened(make_pdf("BT 3 Tr /F 18 Tf 30 40 Td (ghost) Tj ET")).page(0, dpi=72)
    assert page.text_layer is not None
    assert [word.text for word in page.text_layer] == ["ghost"]
    assert page.image.getcolors() == [(200 * 100, WHITE)]


def test_words_off_the_page_are_not_in_the_layer(opened: Opened, make_pdf: MakePdf) -> None:
    assert opened(make_pdf("BT /F 18 Tf 30 400 Td (away) Tj ET")).page(0, dpi=72).text_layer is None


class TestLocked:
    def test_the_right_password_opens(self, opened: Opened, make_pdf: MakePdf) -> None:
        assert opened(make_pdf(CORNER, lock="sesame"), password="sesame").page(0, dpi=72).image.getpixel((5, 5)) == RED

    @pytest.mark.parametrize("password", [None, ""])
    def test_a_missing_password(self, opened: Opened, make_pdf: MakePdf, password: str | None) -> None:
        with pytest.raises(PdfLocked, match="locked with a password") as caught:
            opened(make_pdf(CORNER, lock="sesame"), password=password)
        assert caught.value.hint

    def test_a_wrong_password(self, opened: Opened, make_pdf: MakePdf) -> None:
        with pytest.raises(PdfLocked, match="does not open") as caught:
            opened(make_pdf(CORNER, lock="sesame"), password="Sesame")
        assert caught.value.hint
        assert "Sesame" not in str(caught.value)

    def test_a_password_too_many_is_no_harm(self, opened: Opened, make_pdf: MakePdf) -> None:
        assert opened(make_pdf(CORNER), password="sesame").page_count == 1


class TestDamage:
    @pytest.mark.parametrize("data", [b"%PDF-1.7\n", b"%PDF-1.7\nnothing of the kind\n%%EOF"])
    def test_a_pdf_that_cannot_be_opened(self, opened: Opened, data: bytes) -> None:
        with pytest.raises(BadPdf, match="damaged") as caught:
            opened(data)
        assert caught.value.hint

    def test_a_pdf_without_pages_after_a_locked_one(self, opened: Opened, make_pdf: MakePdf) -> None:
        with pytest.raises(PdfLocked):
            opened(make_pdf("", lock="sesame"))
        with pytest.raises(BadPdf, match="no pages"):
            opened(make_pdf())

    def test_one_broken_page_is_one_error(self, opened: Opened, make_pdf: MakePdf) -> None:
        data = make_pdf(CORNER, CORNER, CORNER)
        second = data.index(b"6 0 obj\n<< /Type /Page")
        data = data[:second] + data[second:].replace(b"/Type /Page ", b"/Type /Fake ", 1)
        document = opened(data)
        assert document.page_count == 3
        with pytest.raises(BadPdf, match="page"):
            document.page(1, dpi=72)
        assert document.page(0, dpi=72).image.getpixel((5, 5)) == RED
        assert document.page(2, dpi=72).image.getpixel((5, 5)) == RED


class TestSize:
    def test_a_page_that_would_be_too_large_is_drawn_smaller_and_says_so(
        self, opened: Opened, make_pdf: MakePdf
    ) -> None:
        page = opened(make_pdf(CORNER), max_pixels=20_000).page(0, dpi=600)
        assert page.dpi is not None
        assert 70 < page.dpi < 72
        assert 19_000 < page.width * page.height <= 20_000
        assert page.width == pytest.approx(200 * page.dpi / 72, abs=1)
        assert page.image.getpixel((5, 5)) == RED

    def test_below_36_dpi_it_is_refused(self, opened: Opened, make_pdf: MakePdf) -> None:
        limit = 100 * 50
        assert opened(make_pdf(""), max_pixels=limit + 200).page(0, dpi=600).width <= 102
        with pytest.raises(SourceTooLarge, match="200 x 100 points"):
            opened(make_pdf(""), max_pixels=limit - 1).page(0, dpi=600)

    def test_a_low_resolution_that_is_asked_for_is_kept(self, opened: Opened, make_pdf: MakePdf) -> None:
        assert opened(make_pdf("")).page(0, dpi=18).image.size == (50, 25)

    def test_a_page_that_fits_exactly_keeps_its_resolution(self, opened: Opened, make_pdf: MakePdf) -> None:
        assert opened(make_pdf(""), max_pixels=20_000).page(0, dpi=72).dpi == 72

    @given(
        width=st.floats(0.1, 14_400),
        height=st.floats(0.1, 14_400),
        dpi=st.floats(1, 2400),
        most=st.integers(100, 10**8),
    )
    def test_whatever_is_drawn_keeps_the_limit(self, width: float, height: float, dpi: float, most: int) -> None:
        try:
            fitting = pdf._fitting_dpi((width, height), dpi, most, 14_400)
        except SourceTooLarge:
            return
        assert fitting <= dpi
        scale = fitting / 72
        assert math.ceil(width * scale) * math.ceil(height * scale) <= most

    def test_padding_behind_the_rows_is_dropped(self) -> None:
        bitmap = SimpleNamespace(width=1, height=2, stride=4, buffer=bytearray(b"abc_def_"))
        assert b"".join(pdf._rows(bitmap)) == b"abcdef"  # type: ignore[arg-type]
        bitmap = SimpleNamespace(width=1, height=2, stride=3, buffer=bytearray(b"abcdef_"))
        assert b"".join(pdf._rows(bitmap)) == b"abcdef"  # type: ignore[arg-type]

    @pytest.mark.parametrize("box", ["0 0 300 10", "0 0 10 300", "0 0 10000000 10000000"])
    def test_a_side_that_is_too_long_is_refused(self, opened: Opened, make_pdf: MakePdf, box: str) -> None:
        document = opened(make_pdf("", box=box), max_page_points=299)
        with pytest.raises(SourceTooLarge, match="points"):
            document.page(0, dpi=72)
