from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ocr_mlx.errors import BadPdf, PdfLocked, ShuttingDown, SourceTooLarge
from ocr_mlx.pages import pdf_child
from ocr_mlx.pages.load import Document, PageLimits, open_document
from ocr_mlx.pages.pdf import PdfRenderer

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
        header = {"dpi": dpi, "max_pixels": most, "max_page_points": 14_400}
        try:
            fitting = pdf_child._fitting_dpi((width, height), header)
        except SourceTooLarge:
            return
        assert fitting <= dpi
        scale = fitting / 72
        assert math.ceil(width * scale) * math.ceil(height * scale) <= most

    def test_padding_behind_the_rows_is_dropped(self) -> None:
        bitmap = SimpleNamespace(width=1, height=2, stride=4, buffer=bytearray(b"abc_def_"))
        assert b"".join(pdf_child._rows(bitmap)) == b"abcdef"  # type: ignore[arg-type]
        bitmap = SimpleNamespace(width=1, height=2, stride=3, buffer=bytearray(b"abcdef_"))
        assert b"".join(pdf_child._rows(bitmap)) == b"abcdef"  # type: ignore[arg-type]

    @pytest.mark.parametrize("box", ["0 0 300 10", "0 0 10 300", "0 0 10000000 10000000"])
    def test_a_side_that_is_too_long_is_refused(self, opened: Opened, make_pdf: MakePdf, box: str) -> None:
        document = opened(make_pdf("", box=box), max_page_points=299)
        with pytest.raises(SourceTooLarge, match="points"):
            document.page(0, dpi=72)


FAKE = """
import os, signal, sys, threading
from ocr_mlx.pages.frames import read_frame, write_frame
requests, answers = sys.stdin.buffer, sys.stdout.buffer
write_frame(answers, {"ready": True})
while (frame := read_frame(requests)) is not None:
    header = frame[0]
    if header["op"] == "page" and header["index"] == 1:
        threading.Event().wait()
    if header["op"] == "page" and header["index"] == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    size = {"width": 1, "height": 1, "dpi": 72.0, "words": None}
    write_frame(answers, {"pages": 3, **size}, b"abc" if header["op"] == "page" else b"")
"""
"""Answers like the real process, but page 2 hangs and page 3 crashes."""


@pytest.fixture
def shaky() -> Iterator[PdfRenderer]:
    with PdfRenderer(command=(sys.executable, "-c", FAKE)) as renderer:
        yield renderer


def open_shaky(renderer: PdfRenderer, timeout: float = 20.0) -> Document:
    return open_document(b"%PDF-", limits=PageLimits(render_timeout=timeout), renderer=renderer)


class TestProcess:
    def test_a_crash_costs_that_request_only(self, shaky: PdfRenderer) -> None:
        with open_shaky(shaky) as document, open_shaky(shaky) as other:
            assert document.page(0, dpi=72).image.getpixel((0, 0)) == (97, 98, 99)
            with pytest.raises(BadPdf, match=r"Page 3 .* crash") as caught:
                document.page(2, dpi=72)
            assert caught.value.hint
            assert document.page(0, dpi=72).width == 1
            assert other.page(0, dpi=72).width == 1

    def test_a_hang_is_ended_and_costs_that_request_only(self, shaky: PdfRenderer) -> None:
        with open_shaky(shaky, timeout=0.5) as document, open_shaky(shaky) as other:
            with pytest.raises(BadPdf, match=r"Page 2 .* 0\.5 seconds"):
                document.page(1, dpi=72)
            assert other.page(0, dpi=72).width == 1

    def test_a_process_that_was_killed_between_pages_is_replaced_unnoticed(self, make_pdf: MakePdf) -> None:
        others = {child.pid for child in pdf_processes()}
        with PdfRenderer() as own, open_document(make_pdf(CORNER), limits=PageLimits(), renderer=own) as document:
            document.page(0, dpi=72)
            (child,) = (child for child in pdf_processes() if child.pid not in others)
            child.kill()
            psutil.wait_procs([child])
            assert document.page(0, dpi=72).image.getpixel((5, 5)) == RED

    def test_it_starts_with_the_first_pdf(self, encode: Callable[..., bytes]) -> None:
        with PdfRenderer(command=("/no/such/program",)) as renderer:
            image = encode(Image.new("L", (4, 4)))
            assert open_document(image, limits=PageLimits(), renderer=renderer).page(0, dpi=72).width == 4
            with pytest.raises(BadPdf, match="could not be started") as caught:
                open_shaky(renderer)
            assert caught.value.hint

    def test_a_process_that_ends_at_once_is_told(self) -> None:
        with (
            PdfRenderer(command=(sys.executable, "-c", "")) as renderer,
            pytest.raises(BadPdf, match="could not be started"),
        ):
            open_shaky(renderer)

    def test_after_closing_nothing_is_left_and_nothing_opens(self, make_pdf: MakePdf) -> None:
        before = {child.pid for child in pdf_processes()}
        renderer = PdfRenderer()
        open_document(make_pdf(""), limits=PageLimits(), renderer=renderer)
        (child,) = (child for child in pdf_processes() if child.pid not in before)
        renderer.close()
        renderer.close()
        assert not psutil.pid_exists(child.pid)
        with pytest.raises(ShuttingDown):
            open_document(make_pdf(""), limits=PageLimits(), renderer=renderer)

    def test_closing_ends_a_page_in_the_middle(self, shaky: PdfRenderer) -> None:
        errors: list[Exception] = []
        document = open_shaky(shaky)

        def read() -> None:
            try:
                document.page(1, dpi=72)
            except ShuttingDown as error:
                errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        while not shaky._lock.locked():
            pass
        began = time.monotonic()
        shaky.close()
        thread.join(10)
        assert time.monotonic() - began < 10  # and not only when the page's time is up
        assert len(errors) == 1

    def test_threads_take_turns(self, renderer: PdfRenderer, make_pdf: MakePdf) -> None:
        widths: list[tuple[int, int]] = []

        def read(width: int) -> None:
            data = make_pdf(*[""] * 5, box=f"0 0 {width} 50")
            with open_document(data, limits=PageLimits(), renderer=renderer) as document:
                widths.extend((width, document.page(index, dpi=72).width) for index in document.indices)

        threads = [threading.Thread(target=read, args=(width,)) for width in range(100, 140, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(widths) == [(width, width) for width in range(100, 140, 10) for _ in range(5)]

    def test_documents_beyond_its_room_make_place_for_each_other(self) -> None:
        limits = PageLimits(memory=1000)  # of which a quarter is for documents
        data = b"%PDF-" + b"x" * 95
        with PdfRenderer(limits, command=(sys.executable, "-c", FAKE)) as renderer:
            documents = [open_document(data, limits=PageLimits(), renderer=renderer) for _ in range(3)]
            assert renderer._child is not None
            assert len(renderer._child.documents) == 2
            assert [document.page(0, dpi=72).width for document in documents] == [1, 1, 1]
            assert len(renderer._child.documents) == 2
            documents[2].close()
            assert len(renderer._child.documents) == 1

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
    def test_memory_is_limited(self, make_pdf: MakePdf) -> None:
        limits = PageLimits(memory=200 * 1024 * 1024, max_pixels=500_000_000)
        with (
            PdfRenderer(limits) as renderer,
            open_document(make_pdf("", CORNER), limits=limits, renderer=renderer) as document,
        ):
            with pytest.raises(BadPdf):
                document.page(0, dpi=7000)
            assert document.page(1, dpi=72).image.getpixel((5, 5)) == RED

    @pytest.mark.skipif(not Path("/dev/fd").exists(), reason="counts the entries of /dev/fd")
    def test_no_descriptor_and_no_zombie_is_left(self, shaky: PdfRenderer) -> None:
        def crash() -> None:
            with open_shaky(shaky) as document, pytest.raises(BadPdf):
                document.page(2, dpi=72)

        crash()
        before, children = len(os.listdir("/dev/fd")), len(psutil.Process().children())
        for _ in range(3):
            crash()
        assert len(os.listdir("/dev/fd")) == before
        assert len(psutil.Process().children()) == children


def pdf_processes() -> list[psutil.Process]:
    """The running PDF processes of this test run."""
    return [child for child in psutil.Process().children() if "ocr_mlx.pages.pdf_child" in child.cmdline()]


ORPHAN = """
import os, sys, psutil
from ocr_mlx.pages.load import PageLimits, open_document
from ocr_mlx.pages.pdf import PdfRenderer
renderer = PdfRenderer(command=sys.argv[2:] or None)
document = open_document(open(sys.argv[1], "rb").read(), limits=PageLimits(), renderer=renderer)
print(psutil.Process().children()[0].pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.process
@pytest.mark.parametrize("busy", [False, True])
def test_it_dies_with_its_parent_even_in_the_middle_of_a_page(tmp_path: Path, make_pdf: MakePdf, busy: bool) -> None:
    file = tmp_path / "a.pdf"
    file.write_bytes(make_pdf(CORNER))
    # The busy one is the real process whose rendering never returns, as a hostile page would have it.
    hang = "import ocr_mlx.pages.pdf_child as c, threading; c._render = lambda *_: threading.Event().wait(); c.main()"
    command = [sys.executable, "-c", hang] if busy else []
    code = ORPHAN.replace("sys.stdin.read()", "document.page(0, dpi=72)") if busy else ORPHAN
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(file), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 20
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "the PDF process outlived its parent"


@pytest.mark.process
def test_a_script_without_a_main_guard_can_read_a_pdf(tmp_path: Path, make_pdf: MakePdf) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('a module of the working folder was imported')")
    (tmp_path / "a.pdf").write_bytes(make_pdf(CORNER))
    script = tmp_path / "folder" / "script.py"
    script.parent.mkdir()
    script.write_text(
        "from ocr_mlx.pages.load import PageLimits, open_document\n"
        "from ocr_mlx.pages.pdf import PdfRenderer\n"
        "with PdfRenderer() as renderer:\n"
        "    data = open('a.pdf', 'rb').read()\n"
        "    print(open_document(data, limits=PageLimits(), renderer=renderer).page(0, dpi=72).width)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "200\n"
