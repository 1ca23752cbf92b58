"""The page processes: what one costs when it fails, who waits for whom, and that nothing is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from ocr_mlx.errors import BadImage, BadPdf, OcrMlxError, OutOfMemory, ShuttingDown
from ocr_mlx.pages import pool, process
from ocr_mlx.pages.load import Document, PageLimits, open_document
from ocr_mlx.pages.pool import PageProcesses

MakePdf = Callable[..., bytes]
Encode = Callable[..., bytes]
RED = (255, 0, 0)
CORNER = "1 0 0 rg 0 80 20 20 re f"
"""A red square at the top left of a page of 200 x 100 points."""
PDF, PNG, TIFF = b"%PDF-", b"\x89PNG\r\n\x1a\n", b"II*\0"
GOOD, HANGS, CRASHES, TOO_FEW, TOO_MANY, NO_JSON, NO_OBJECT, NO_MODE, GROWS = range(9)

FAKE = """
import json, os, signal, struct, sys, threading
from ocr_mlx.pages.frames import read_frame, write_frame
requests, answers = sys.stdin.buffer, sys.stdout.buffer
write_frame(answers, {"ready": True})
held = []
while (frame := read_frame(requests)) is not None:
    header = frame[0]
    page = {"mode": "RGB", "width": 1, "height": 1, "dpi": 72.0, "words": None}
    if header["op"] != "page":
        write_frame(answers, {"pages": 99})
        continue
    match header["index"]:
        case 1:
            threading.Event().wait()
        case 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 3:
            write_frame(answers, {**page, "width": 2}, (b"abc",), 3)
        case 4:
            write_frame(answers, page, (), 1 << 50)
        case 5:
            answers.write(struct.pack(">IQ", 3, 0) + b"{:}")
            answers.flush()
        case 6:
            answers.write(struct.pack(">IQ", 2, 0) + b"[]")
            answers.flush()
        case 7:
            write_frame(answers, {**page, "mode": "no such mode"}, (b"abc",), 3)
        case 8:
            held.append(b"x" * 400_000_000)
            threading.Event().wait()
        case _:
            write_frame(answers, page, (b"abc",), 3)
"""
"""Answers like the real process, but for the pages above."""


@pytest.fixture
def shaky() -> Iterator[PageProcesses]:
    with PageProcesses(command=(sys.executable, "-c", FAKE)) as processes:
        yield processes


def open_shaky(processes: PageProcesses, timeout: float = 20.0, data: bytes = PDF) -> Document:
    return open_document(data, limits=PageLimits(render_timeout=timeout), renderer=processes)


def running(processes: PageProcesses) -> list[int]:
    """The ids of the processes that run."""
    return [one._process.pid for one in processes._processes if one.running and one._process is not None]


def open_in(processes: PageProcesses) -> list[int]:
    """How many documents each process has open."""
    return sorted(len(one.documents) for one in processes._processes)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestFailing:
    def test_a_crash_costs_that_request_only(self, shaky: PageProcesses) -> None:
        with open_shaky(shaky) as document, open_shaky(shaky) as other:
            assert document.page(GOOD, dpi=72).image.getpixel((0, 0)) == (97, 98, 99)
            with pytest.raises(BadPdf, match=r"Page 3 of the PDF .* crash") as caught:
                document.page(CRASHES, dpi=72)
            assert caught.value.hint
            assert document.page(GOOD, dpi=72).width == 1
            assert other.page(GOOD, dpi=72).width == 1

    def test_a_hang_is_ended_and_costs_that_request_only(self, shaky: PageProcesses) -> None:
        with open_shaky(shaky, timeout=0.5) as document, open_shaky(shaky) as other:
            with pytest.raises(BadPdf, match=r"Page 2 .* 0\.5 seconds"):
                document.page(HANGS, dpi=72)
            assert other.page(GOOD, dpi=72).width == 1

    def test_where_no_thread_can_be_started_closing_loses_no_process(
        self, shaky: PageProcesses, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        document = open_shaky(shaky)

        def refused(_self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as short:
            short.setattr(threading.Thread, "start", refused)
            document.close()
            shaky.warm()
        assert len(shaky._idle) == len(shaky._processes)
        with open_shaky(shaky) as other:
            assert other.page(GOOD, dpi=72).width == 1

    def test_a_document_that_is_closed_while_its_page_waits_stays_open_nowhere(self) -> None:
        with PageProcesses(processes=1, command=(sys.executable, "-c", FAKE)) as processes:
            document, other = open_shaky(processes), open_shaky(processes)
            with processes._taken(-1) as process:
                process.drop(1, 20)
                waits = threading.Thread(target=document.page, args=(GOOD,), kwargs={"dpi": 72})
                waits.start()
                deadline = time.monotonic() + 20
                while not processes._waiting and time.monotonic() < deadline:
                    time.sleep(0.01)
                document.close()
            waits.join(20)
            other.close()
            assert not processes._processes[0].documents

    def test_where_no_thread_can_be_started_a_page_is_refused_for_want_of_room(
        self, shaky: PageProcesses, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(_self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with open_shaky(shaky) as document:
            with monkeypatch.context() as short, pytest.raises(OutOfMemory, match="room for another thread"):
                short.setattr(threading.Thread, "start", refused)
                document.page(GOOD, dpi=72)
            assert document.page(GOOD, dpi=72).width == 1

    @pytest.mark.parametrize(("data", "words"), [(PNG, "The PNG image made"), (TIFF, "Page 3 of the TIFF image made")])
    def test_of_an_image_too(self, shaky: PageProcesses, data: bytes, words: str) -> None:
        with open_shaky(shaky, data=data) as document, pytest.raises(BadImage, match=words) as caught:
            document.page(CRASHES, dpi=72)
        assert "scan" in caught.value.hint

    @pytest.mark.parametrize("page", [TOO_FEW, TOO_MANY, NO_JSON, NO_OBJECT, NO_MODE])
    def test_an_answer_that_is_none_is_like_a_crash(self, shaky: PageProcesses, page: int) -> None:
        with open_shaky(shaky) as document:
            with pytest.raises(BadPdf, match="crash"):
                document.page(page, dpi=72)
            assert document.page(GOOD, dpi=72).width == 1

    def test_one_that_grows_is_ended_where_the_system_does_not_limit_it(self) -> None:
        limits = PageLimits(memory=200_000_000)
        with (
            PageProcesses(limits, command=(sys.executable, "-c", FAKE)) as processes,
            open_shaky(processes) as document,
        ):
            with pytest.raises(BadPdf, match="out of memory"):
                document.page(GROWS, dpi=72)
            assert document.page(GOOD, dpi=72).width == 1

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
    def test_memory_is_limited(self, make_pdf: MakePdf) -> None:
        limits = PageLimits(memory=256 * 1024 * 1024, max_pixels=500_000_000)
        with (
            PageProcesses(limits) as processes,
            open_document(make_pdf("", CORNER), limits=limits, renderer=processes) as document,
        ):
            with pytest.raises(BadPdf):
                document.page(0, dpi=7000)
            assert document.page(1, dpi=72).image.getpixel((5, 5)) == RED

    def test_one_that_was_killed_between_pages_is_replaced_unnoticed(self, make_pdf: MakePdf) -> None:
        with (
            PageProcesses() as processes,
            open_document(make_pdf(CORNER), limits=PageLimits(), renderer=processes) as document,
        ):
            document.page(0, dpi=72)
            (pid,) = running(processes)
            child = psutil.Process(pid)
            child.kill()
            psutil.wait_procs([child])
            assert document.page(0, dpi=72).image.getpixel((5, 5)) == RED

    def test_an_interrupt_leaves_no_answer_for_the_next_question(
        self, shaky: PageProcesses, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with open_shaky(shaky) as document:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(process, "read_frame", interrupted)
                document.page(GOOD, dpi=72)
            assert not running(shaky)
            assert document.page(GOOD, dpi=72).width == 1

    def test_one_that_cannot_be_started_is_told(self) -> None:
        for command in (("/no/such/program",), (sys.executable, "-c", "")):
            with PageProcesses(command=command) as processes:
                processes.warm()
                with pytest.raises(OutOfMemory, match="could not be started") as caught:
                    open_shaky(processes)
                assert caught.value.hint

    @pytest.mark.skipif(not Path("/dev/fd").exists(), reason="counts the entries of /dev/fd")
    def test_no_descriptor_and_no_zombie_is_left(self, shaky: PageProcesses) -> None:
        def crash() -> None:
            with open_shaky(shaky) as document, pytest.raises(BadPdf):
                document.page(CRASHES, dpi=72)

        crash()
        before, children = len(os.listdir("/dev/fd")), len(psutil.Process().children())
        for _ in range(3):
            crash()
        assert len(os.listdir("/dev/fd")) == before
        assert len(psutil.Process().children()) == children


class TestTurns:
    def test_a_slow_document_holds_up_no_other(self, shaky: PageProcesses) -> None:
        with open_shaky(shaky) as slow, open_shaky(shaky) as other:
            threads = [threading.Thread(target=self.give_up, args=(slow, page)) for page in (HANGS, GOOD)]
            for thread in threads:
                thread.start()
            until(lambda: len(shaky._idle) == 1)
            for _ in range(20):
                assert other.page(GOOD, dpi=72).width == 1
            assert all(thread.is_alive() for thread in threads)
            shaky.close()
            for thread in threads:
                thread.join(20)

    @staticmethod
    def give_up(document: Document, page: int, error: type[OcrMlxError] = ShuttingDown) -> None:
        with pytest.raises(error):
            document.page(page, dpi=72)

    def test_one_document_takes_one_process(self, shaky: PageProcesses) -> None:
        with open_shaky(shaky) as document:
            threads = [threading.Thread(target=document.page, args=(GOOD,), kwargs={"dpi": 72}) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(running(shaky)) == 1

    def test_who_came_first_is_served_first(self) -> None:
        served: list[str] = []
        with PageProcesses(processes=1) as processes:

            def take(name: str) -> None:
                taken = processes._take(0)
                served.append(name)
                processes._give_back(taken)

            held = processes._take(0)
            thread = threading.Thread(target=take, args=("who waited",))
            thread.start()
            until(lambda: processes._waiting)
            processes._give_back(held)
            take("who had it already")
            thread.join()
        assert served == ["who waited", "who had it already"]

    def test_threads_take_turns(self, renderer: PageProcesses, make_pdf: MakePdf) -> None:
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
        limits = PageLimits(memory=100_000_000)  # of which a quarter is for documents
        data = PDF + b"x" * 9_000_000
        with PageProcesses(limits, processes=1, command=(sys.executable, "-c", FAKE)) as processes:
            documents = [open_document(data, limits=PageLimits(), renderer=processes) for _ in range(3)]
            assert open_in(processes) == [2]
            assert [document.page(0, dpi=72).width for document in documents] == [1, 1, 1]
            assert open_in(processes) == [2]
            documents[2].close()
            assert open_in(processes) == [1]

    def test_a_document_that_is_closed_is_closed_in_every_process(self, shaky: PageProcesses) -> None:
        document, slow = open_shaky(shaky), open_shaky(shaky, timeout=0.4)
        thread = threading.Thread(target=self.give_up, args=(slow, HANGS, BadPdf))
        thread.start()
        until(lambda: len(shaky._idle) == 1)
        document.page(GOOD, dpi=72)  # in the other process now
        thread.join()
        document.page(GOOD, dpi=72)
        document.close()
        slow.close()
        assert open_in(shaky) == [0, 0]
        assert not any(one.unwanted for one in shaky._processes)


class TestStarting:
    def test_none_starts_before_a_document(self, shaky: PageProcesses) -> None:
        assert not running(shaky)
        open_shaky(shaky).close()
        assert len(running(shaky)) == 1

    def test_a_warm_one_is_waited_for_rather_than_starting_another(self) -> None:
        slow = "import time; time.sleep(0.3)\n" + FAKE
        with PageProcesses(command=(sys.executable, "-c", slow)) as processes:
            processes.warm()
            processes.warm()
            with open_shaky(processes) as document:
                assert document.page(GOOD, dpi=72).width == 1
            assert len(running(processes)) == 1

    def test_it_is_replaced_after_many_documents(self, shaky: PageProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool, "_MOST_DOCUMENTS", 2)
        seen = []
        for _ in range(4):
            with open_shaky(shaky):
                seen += running(shaky)
        assert len(set(seen)) == 2

    def test_after_closing_nothing_is_left_and_nothing_opens(self, make_pdf: MakePdf) -> None:
        processes = PageProcesses()
        open_document(make_pdf(""), limits=PageLimits(), renderer=processes)
        (pid,) = running(processes)
        processes.close()
        processes.close()
        processes.warm()
        assert not psutil.pid_exists(pid)
        with pytest.raises(ShuttingDown):
            open_document(make_pdf(""), limits=PageLimits(), renderer=processes)

    def test_closing_while_one_starts(self) -> None:
        processes = PageProcesses(command=(sys.executable, "-c", "import time; time.sleep(60)"))
        processes.warm()
        began = time.monotonic()
        processes.close()
        assert time.monotonic() - began < 20
        assert not running(processes)

    def test_closing_ends_a_page_in_the_middle(self, shaky: PageProcesses) -> None:
        document = open_shaky(shaky)
        thread = threading.Thread(target=TestTurns.give_up, args=(document, HANGS))
        thread.start()
        until(lambda: len(shaky._idle) == 1)
        began = time.monotonic()
        shaky.close()
        thread.join(20)
        assert time.monotonic() - began < 15  # and not only when the page's time is up


DECODES_NOTHING = """
import sys
from ocr_mlx.pages.load import PageLimits, open_document
from ocr_mlx.pages.pool import PageProcesses
with PageProcesses() as processes:
    for path in sys.argv[1:]:
        with open_document(open(path, "rb").read(), limits=PageLimits(), renderer=processes) as document:
            assert document.page(0, dpi=72, padding=1).image.mode == "RGB"
found = [name for name in sys.modules if name.endswith("ImagePlugin") or name.startswith(("pypdfium2", "pillow_heif"))]
assert not found, found
"""


@pytest.mark.process
def test_the_parent_loads_no_decoder(tmp_path: Path, make_pdf: MakePdf, encode: Encode) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('a module of the working folder was imported')")
    image = Image.new("RGB", (4, 4))
    files = {kind: encode(image, kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP")} | {"PDF": make_pdf(CORNER)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    script = tmp_path / "folder" / "script.py"  # without a `__main__` guard
    script.parent.mkdir()
    script.write_text(DECODES_NOTHING)
    subprocess.run([sys.executable, script, *files], cwd=tmp_path, check=True)
