"""`ocr_mlx read` tells pages as they finish, and its output is the same to the byte."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ocr_mlx.cli import console
from ocr_mlx.cli.app import Tools, main
from ocr_mlx.cli.live import Finished, InOrder
from ocr_mlx.cli.progress import Plain, Terminal
from ocr_mlx.domain import (
    DocumentDone,
    DocumentStarted,
    Event,
    FilePath,
    OcrRequest,
    OcrResult,
    OnEvent,
    PageDone,
    PageError,
    PageResult,
    PageStarted,
    PageStatus,
)
from ocr_mlx.errors import OutOfMemory
from ocr_mlx.outputs.formats import FORMATS
from ocr_mlx.settings import Settings
from tests.unit.cli.test_read import interrupt
from tests.wire.fakes import FakeService, page, result

WAIT = 10.0
Step = Event | Callable[[threading.Event], object]
Run = Callable[..., int]


class Telling(FakeService):
    """Documents by file name, each a list of events, and of functions that are called with the cancel flag."""

    def __init__(self, **documents: Sequence[Step]) -> None:
        super().__init__()
        self.documents = documents

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        assert isinstance(request.source, FilePath) and on_event is not None and cancel is not None
        for step in self.documents[request.source.path.stem]:
            if callable(step):
                step(cancel)
                continue
            on_event(step)
            if isinstance(step, DocumentDone):
                return step.result
        raise OutOfMemory("Too big.")


def steps(*pages: PageResult, order: Sequence[int] = ()) -> list[Step]:
    told: list[Step] = [DocumentStarted(model="fake", pages=tuple(one.index for one in pages))]
    told += [PageStarted(page=one.index) for one in pages]
    told += [PageDone(result=pages[at]) for at in order or range(len(pages))]
    return [*told, DocumentDone(result=result(*pages))]


@pytest.fixture
def run() -> Run:
    def call(service: FakeService, *arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(("read", *arguments), Tools(settings=Settings, build=lambda _settings: service))
        return int(ended.value.code or 0)

    return call


class Printed:
    """What went to stdout, as it went."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces: list[str] = []
        self._changed = threading.Condition()
        monkeypatch.setattr(console, "write", self._write)

    def _write(self, text: str) -> None:
        with self._changed:
            self.pieces.append(text)
            self._changed.notify_all()

    def waits_for(self, *pieces: str) -> Callable[[threading.Event], object]:
        """A step that goes on once this is out, and nothing else."""

        def step(_cancel: threading.Event) -> None:
            with self._changed:
                assert self._changed.wait_for(lambda: len(self.pieces) >= len(pieces), WAIT)
                assert self.pieces == list(pieces)

        return step


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Printed:
    return Printed(monkeypatch)


@pytest.mark.parametrize("form", ["txt", "md"])
def test_a_page_is_out_before_the_next_one_is_done(run: Run, printed: Printed, form: str) -> None:
    one, two = page(0, "one"), page(1, "two")
    told: list[Step] = [DocumentStarted(model="m", pages=(0, 1)), PageDone(result=one), printed.waits_for("one\n")]
    told += [PageDone(result=two), printed.waits_for("one\n", "\ntwo\n"), DocumentDone(result=result(one, two))]
    assert run(Telling(a=told), "a.pdf", "-f", form) == 0
    assert printed.pieces == ["one\n", "\ntwo\n"]


def test_later_pages_wait_for_earlier_ones(run: Run, printed: Printed) -> None:
    pages = [page(0, "one"), page(1, "two"), page(2, "three")]
    told: list[Step] = [DocumentStarted(model="m", pages=(0, 1, 2)), PageDone(result=pages[2])]
    told += [PageDone(result=pages[0]), printed.waits_for("one\n"), PageDone(result=pages[1])]
    told += [printed.waits_for("one\n", "\ntwo\n", "\nthree\n"), DocumentDone(result=result(*pages))]
    assert run(Telling(a=told), "a.pdf") == 0


def test_documents_come_in_the_order_of_the_inputs(run: Run, printed: Printed) -> None:
    begun = threading.Event()
    one, two, other = page(0, "one"), page(1, "two"), page(0, "other")
    slow: list[Step] = [DocumentStarted(model="m", pages=(0, 1)), lambda _cancel: begun.wait(WAIT)]
    slow += [PageDone(result=one), printed.waits_for("one\n"), PageDone(result=two)]
    quick: list[Step] = [*steps(other)[:-1], lambda _cancel: begun.set(), DocumentDone(result=result(other))]
    assert run(Telling(a=[*slow, DocumentDone(result=result(one, two))], b=quick), "a.pdf", "b.pdf") == 0
    assert printed.pieces == ["one\n", "\ntwo\n", "\nother\n"]


TEXTS = ("one", "two\n", "\nthree", "", "four\n\n", "fünf — 漢字")


def some_pages(rng: random.Random) -> list[PageResult]:
    damaged = PageError(code="bad_pdf", message="Damaged.")
    kinds = [PageStatus.OK] * 5 + [PageStatus.BLANK, PageStatus.TRUNCATED, PageStatus.FAILED]
    pages = []
    for index in range(rng.randrange(1, 6)):
        status = rng.choice(kinds)
        if status in (PageStatus.BLANK, PageStatus.FAILED):
            pages.append(page(index, "", status, error=damaged if status is PageStatus.FAILED else None))
        else:
            pages.append(page(index, rng.choice(TEXTS), status))
    return pages


@pytest.mark.parametrize("form", ["txt", "md"])
def test_the_bytes_are_those_of_the_whole_result(run: Run, printed: Printed, form: str) -> None:
    rng = random.Random(form)
    for _ in range(60):
        documents = {f"d{n}": some_pages(rng) for n in range(rng.randrange(1, 4))}
        told = {
            name: steps(*pages, order=rng.sample(range(len(pages)), len(pages))) for name, pages in documents.items()
        }
        run(Telling(**told), *(f"{name}.pdf" for name in documents), "-f", form, "-q")
        whole = [text for pages in documents.values() if (text := FORMATS[form](result(*pages)))]
        assert "".join(printed.pieces) == "\n".join(whole)
        printed.pieces.clear()


def test_json_comes_when_the_document_is_whole(run: Run, printed: Printed) -> None:
    pages = [page(0, "one"), page(1, "two")]
    told: list[Step] = [*steps(*pages)[:-1], printed.waits_for(), DocumentDone(result=result(*pages))]
    assert run(Telling(a=told), "a.pdf", "-f", "json") == 0
    assert printed.pieces == [FORMATS["json"](result(*pages))]


def test_pages_that_come_instead_of_those_announced_keep_their_place(run: Run, printed: Printed) -> None:
    """Three pages were to be read in one prompt; the first cannot be had, so the others come on their own, last."""
    bad = page(0, "", PageStatus.FAILED, error=PageError(code="bad_pdf", message="Torn."))
    rest, later = page(1, "two, three", following=(2,)), page(3, "four")
    told: list[Step] = [DocumentStarted(model="m", pages=(0, 3)), PageDone(result=bad), PageDone(result=later)]
    told += [printed.waits_for(), PageDone(result=rest), DocumentDone(result=result(bad, rest, later))]
    assert run(Telling(a=told), "a.pdf") == 1
    assert "".join(printed.pieces) == "two, three\n\nfour\n"


def test_ctrl_c_keeps_what_was_printed_and_adds_what_is_done(
    run: Run, printed: Printed, capfd: pytest.CaptureFixture[str]
) -> None:
    pages = [page(0, "one"), page(1, "half a", PageStatus.CANCELLED), page(2, "three")]
    told: list[Step] = [DocumentStarted(model="m", pages=(0, 1, 2)), PageDone(result=pages[2])]
    told += [PageDone(result=pages[0]), printed.waits_for("one\n"), lambda _cancel: interrupt()]
    told += [lambda cancel: cancel.wait(WAIT), PageDone(result=pages[1]), DocumentDone(result=result(*pages))]
    assert run(Telling(a=told), "a.pdf") == 130
    assert "".join(printed.pieces) == "one\n\nthree\n"
    assert capfd.readouterr().err == "a.pdf: interrupted after 2 of 3 pages.\n"


def test_ctrl_c_in_the_middle_of_a_page_prints_it_once(
    run: Run, printed: Printed, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Plain, "page", lambda *_said: interrupt())
    pages = [page(0, "one"), page(1, "", PageStatus.CANCELLED)]
    told: list[Step] = [DocumentStarted(model="m", pages=(0, 1)), PageDone(result=pages[0])]
    told += [lambda cancel: cancel.wait(WAIT), PageDone(result=pages[1]), DocumentDone(result=result(*pages))]
    assert run(Telling(a=told), "a.pdf") == 130
    assert "".join(printed.pieces) == "one\n"
    assert capfd.readouterr().err == "a.pdf: interrupted after 1 of 2 pages.\n"


def test_after_ctrl_c_a_page_is_still_one_of_all(run: Run, printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[str] = []
    monkeypatch.setattr(Plain, "page", lambda _self, _label, finished, _reason: places.append(finished.place))
    pages = [page(0, "one"), page(1, "", PageStatus.CANCELLED), page(2, "three")]
    told: list[Step] = [DocumentStarted(model="m", pages=(0, 1, 2)), PageDone(result=pages[0])]
    told += [printed.waits_for("one\n"), lambda _cancel: interrupt()]
    told += [lambda cancel: cancel.wait(WAIT), DocumentDone(result=result(*pages))]
    assert run(Telling(a=told), "a.pdf") == 130
    assert places == ["page 1 of 3", "page 3 (2 of 3)"]


def test_a_document_that_breaks_off_leaves_its_pages_and_the_others(
    run: Run, printed: Printed, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[Step] = [DocumentStarted(model="m", pages=(0, 1)), PageDone(result=page(0, "one"))]
    assert run(Telling(a=told, b=steps(page(0, "other"))), "a.pdf", "b.pdf") == 1
    assert "".join(printed.pieces) == "one\n\nother\n"
    assert capfd.readouterr().err == "a.pdf: Too big.\n"


def test_a_file_gets_the_whole_at_the_end(run: Run, printed: Printed, tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    pages = [page(0, "one"), page(1, "two")]
    told: list[Step] = [*steps(*pages)[:-1], lambda _cancel: target.exists() and pytest.fail("a half file")]
    assert run(Telling(a=[*told, DocumentDone(result=result(*pages))]), "a.pdf", "-o", str(target)) == 0
    assert target.read_text() == "one\n\ntwo\n" and printed.pieces == []


def done(index: int, number: int, **more: object) -> Finished:
    return Finished(result=page(index, **more), number=number, total=12)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("finished", "reason", "line"),
    [
        (done(2, 3, generated_tokens=100, seconds=0.5), "", "a.pdf: page 3 of 12: 100 tokens, 200 tokens/s"),
        (done(6, 3, text="", status=PageStatus.BLANK), "", "a.pdf: page 7 (3 of 12): blank"),
        (done(0, 1, status=PageStatus.FAILED), "Torn.", "a.pdf: page 1 of 12: failed: Torn."),
        (done(0, 1, cached=True, generated_tokens=9, seconds=1.0), "", "a.pdf: page 1 of 12: read before"),
        (
            done(0, 1, generated_tokens=9, seconds=1.0, drafted=8, accepted=6, status=PageStatus.TRUNCATED),
            "cut off",
            "a.pdf: page 1 of 12: truncated: cut off, 9 tokens, 9 tokens/s, 6 of 8 drafted tokens taken",
        ),
        (done(0, 1), "", "a.pdf: page 1 of 12: ok"),
    ],
)
def test_a_line_for_each_page(capsys: pytest.CaptureFixture[str], finished: Finished, reason: str, line: str) -> None:
    Terminal().page("a.pdf", finished, reason)
    assert capsys.readouterr().err == line + "\n"


def test_in_order_counts_from_one() -> None:
    order = InOrder()
    assert order.take(DocumentStarted(model="m", pages=(4, 6))) == []
    assert order.take(PageDone(result=page(6))) == []
    found = order.take(PageDone(result=page(4)))
    assert [(one.result.index, one.number, one.total) for one in found] == [(4, 1, 2), (6, 2, 2)]
