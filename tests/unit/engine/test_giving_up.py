"""Runs that end before their end: cancelled, too late, or because the engine closes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ocr_mlx.domain import (
    Event,
    ModelProgress,
    OcrRequest,
    OcrResult,
    OnEvent,
    PageDone,
    PageResult,
    PageStarted,
    PageStatus,
    RemoteUrl,
    TextDelta,
)
from ocr_mlx.engine.stop import Stop, check_timeout
from ocr_mlx.errors import Cancelled, InvalidOption, QueueFull
from ocr_mlx.model.base import LoadedModel, PageText
from ocr_mlx.outputs.outcome import failure
from tests.unit.engine.bench import Bench, bench
from tests.unit.fakes import FakeDocument, ids, request

SOON = 1.0
"""Seconds: far more than the patience, far less than what the tests hold the worker for."""
LONG = " ".join(str(n) for n in range(200))
"""Enough steps that whoever gives up comes before its end."""


class Gate:
    """Holds the worker inside a pass from the moment that it is shut."""

    def __init__(self, b: Bench) -> None:
        self.shut = threading.Event()
        self.reached = threading.Event()
        self.opened = threading.Event()
        b.graph.gate = self._pass

    def _pass(self) -> None:
        if self.shut.is_set():
            self.reached.set()
            assert self.opened.wait(20)


@contextmanager
def held(b: Bench) -> Iterator[Gate]:
    gate = Gate(b)
    try:
        yield gate
    finally:
        gate.opened.set()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def cancelled_inside(b: Bench, gate: Gate) -> tuple[OcrResult, float]:
    """Cancel a run while the worker is inside a pass for it: the result, and the seconds that took."""
    gate.shut.set()
    cancel = threading.Event()
    results: list[OcrResult] = []
    reader = threading.Thread(target=lambda: results.append(b.service.run(request(), None, cancel)))
    reader.start()
    assert gate.reached.wait(10)
    began = time.monotonic()
    cancel.set()
    reader.join(10)
    return results[0], time.monotonic() - began


def leases(b: Bench) -> int:
    return sum(model.leases for model in b.service.cache.snapshot())


def test_cancel_does_not_wait_for_the_pass_in_progress() -> None:
    with bench() as b, held(b) as gate:
        b.document = document = FakeDocument([0, 1])
        result, seconds = cancelled_inside(b, gate)
        assert [page.status for page in result.pages] == ["cancelled", "cancelled"]
        assert seconds < SOON
        assert leases(b) == 1 and not document.closed  # the worker is still in it
        gate.opened.set()
        until(lambda: leases(b) == 0)
        assert document.closed
        assert b.worker.call(lambda: dict(b.worker._lanes)).result(10) == {}


def test_a_model_stays_until_the_worker_has_let_go_of_its_rows() -> None:
    with bench() as b, held(b) as gate:
        cancelled_inside(b, gate)
        b.clock.advance(10**6)
        b.service.cache.evict("fake")
        assert [model.id for model in b.service.cache.snapshot()] == ["fake"]
        gate.opened.set()
        until(lambda: leases(b) == 0)
        b.clock.advance(10**6)
        until(lambda: b.service.cache.snapshot() == ())


def test_the_next_request_is_read_once_the_pass_is_over() -> None:
    with bench() as b, held(b) as gate:
        cancelled_inside(b, gate)
        threading.Timer(0.05, gate.opened.set).start()
        b.document = FakeDocument([1])
        assert b.service.run(request()).text == "second, a little longer"


def test_what_is_left_behind_keeps_its_place_in_the_queue() -> None:
    with bench(queue_limit=1) as b, held(b) as gate:
        cancelled_inside(b, gate)
        with pytest.raises(QueueFull):
            b.service.run(request())
        gate.opened.set()
        until(lambda: b.service._leaving == 0)
        assert b.service.run(request()).text == "first page"


def test_a_page_that_is_given_up_keeps_what_it_had_said() -> None:
    with bench() as b, held(b) as gate:
        cancel = threading.Event()
        said: list[str] = []

        def on_event(event: Event) -> None:
            if isinstance(event, TextDelta):
                said.append(event.text)
                if "".join(said) == "first":
                    gate.shut.set()
                    assert gate.reached.wait(10)
                    cancel.set()

        result = b.service.run(request(), on_event, cancel)
        page = result.pages[0]
        assert page.status is PageStatus.CANCELLED
        assert page.raw_text == "".join(said) and page.raw_text.startswith("first")
        assert page.generated_tokens == len(page.raw_text) < len("first page")
        assert page.error is None
        told = failure(result)
        assert told is not None and told.code == "cancelled"


def test_a_page_given_up_whose_words_cannot_be_cleaned_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with bench() as b, held(b) as gate:

        def strict(raw_text: str, *_others: object) -> PageText:
            raise ValueError

        monkeypatch.setattr(b.model.processor, "postprocess", strict)
        result, _ = cancelled_inside(b, gate)
        assert [page.status for page in result.pages] == ["failed"]


def test_a_page_of_many_rows_that_is_cut_short_ends_at_its_first_gap() -> None:
    with bench() as b:
        b.model.processor.scripts[0] = [ids("whole"), ids(LONG), ids("another"), ids(LONG)]  # type: ignore[attr-defined]
        cancel = threading.Event()
        said: list[str] = []

        def on_event(event: Event) -> None:
            if isinstance(event, TextDelta):
                said.append(event.text)
                if len("".join(said)) > 20:
                    cancel.set()

        (page,) = b.service.run(request(), on_event, cancel).pages
        assert page.status is PageStatus.CANCELLED and page.finish == "cancelled"
        assert page.raw_text == "".join(said)
        assert 20 < len(page.raw_text) < len(LONG) and f"whole\n{LONG}".startswith(page.raw_text)


def test_a_page_whose_preparation_hangs_is_given_up_too() -> None:
    with bench() as b:
        inside, leave, cancel = threading.Event(), threading.Event(), threading.Event()
        b.document = document = FakeDocument([0, 0, 0])
        prepare = b.model.processor.prepare

        def slow(*arguments: object) -> object:
            inside.set()
            assert leave.wait(10)
            return prepare(*arguments)  # type: ignore[arg-type]

        b.model.processor.prepare = slow  # type: ignore[method-assign, assignment]
        threading.Thread(target=lambda: inside.wait(10) and cancel.set()).start()
        began = time.monotonic()
        pages = b.service.run(request(), None, cancel).pages
        assert time.monotonic() - began < SOON
        assert [page.status for page in pages] == ["cancelled"] * 3
        assert not document.closed
        leave.set()
        until(lambda: document.closed)


def test_closing_does_not_wait_for_a_pass_without_end() -> None:
    with bench() as b, held(b) as gate:
        gate.shut.set()
        results: list[OcrResult] = []
        reader = threading.Thread(target=lambda: results.append(b.service.run(request())))
        reader.start()
        assert gate.reached.wait(10)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ocr_mlx.engine.service._LAST_SECONDS", 0.05)
            began = time.monotonic()
            assert b.service.close() is False
            assert time.monotonic() - began < SOON
        reader.join(10)
        assert results[0].pages[0].status == "cancelled"
        gate.opened.set()
        assert b.service.close() is True


def test_a_flag_that_is_set_ends_a_row_within_one_step() -> None:
    with bench() as b:
        b.model.processor.scripts[0] = [ids(LONG)]  # type: ignore[attr-defined]
        cancel = threading.Event()
        at: list[int] = []

        def on_event(event: Event) -> None:
            if isinstance(event, TextDelta) and not cancel.is_set():
                b.worker.call(lambda: (cancel.set(), at.append(len(b.graph.widths)))).result(10)

        assert b.service.run(request(), on_event, cancel).pages[0].status == "cancelled"
        assert len(b.graph.widths) - at[0] <= 1
        assert b.worker.call(lambda: dict(b.worker._lanes)).result(10) == {}


def test_who_waits_for_a_model_may_give_up_and_the_model_stays_for_others() -> None:
    with bench() as b:
        inside, leave, cancel = threading.Event(), threading.Event(), threading.Event()
        load = b.service.cache._load

        def slow(name: str, on_event: OnEvent) -> LoadedModel:
            inside.set()
            assert leave.wait(20)
            return load(name, on_event)

        b.service.cache._load = slow
        problems: list[BaseException] = []

        def read() -> None:
            try:
                b.service.run(request(), None, cancel)
            except Cancelled as problem:
                problems.append(problem)

        reader = threading.Thread(target=read)
        reader.start()
        assert inside.wait(10)
        began = time.monotonic()
        cancel.set()
        reader.join(10)
        assert time.monotonic() - began < SOON and len(problems) == 1
        threading.Timer(0.05, leave.set).start()
        assert b.service.run(request()).text == "first page"
        until(lambda: leases(b) == 0)
        assert b.loads == 1


def test_a_download_that_tells_of_every_piece_may_be_given_up() -> None:
    with bench() as b:
        cancel, ended = threading.Event(), threading.Event()

        def fetch(name: str, on_event: OnEvent) -> LoadedModel:
            end = time.monotonic() + 2 * SOON
            try:
                while time.monotonic() < end:
                    on_event(ModelProgress(model=name, stage="downloading", done=1, total=2))
                    time.sleep(0.001)
            finally:
                ended.set()
            return b.model

        b.service.cache._load = fetch
        began = time.monotonic()
        with pytest.raises(Cancelled):
            b.service.run(request(), lambda _event: cancel.set(), cancel)
        assert ended.wait(10)
        assert time.monotonic() - began < SOON
        until(lambda: leases(b) == 0 and b.service._leaving == 0)


def test_a_listener_that_raises_ends_a_download() -> None:
    with bench() as b:
        ended: list[BaseException] = []
        raised = threading.Event()

        def fetch(name: str, on_event: OnEvent) -> LoadedModel:
            try:
                on_event(ModelProgress(model=name, stage="downloading", done=1, total=2))
                assert raised.wait(10)
                on_event(ModelProgress(model=name, stage="downloading", done=2, total=2))
            except Cancelled as problem:
                ended.append(problem)
                raise
            raise AssertionError

        b.service.cache._load = fetch

        def listen(event: Event) -> None:
            threading.Timer(0.05, raised.set).start()
            raise BrokenPipeError

        with pytest.raises(BrokenPipeError):
            b.service.run(request(), listen)
        until(lambda: len(ended) == 1 and b.service._leaving == 0)


def test_a_fetch_may_be_given_up() -> None:
    with bench() as b:
        inside, leave, cancel = threading.Event(), threading.Event(), threading.Event()
        document = FakeDocument([0])

        def slow(_request: OcrRequest) -> FakeDocument:
            inside.set()
            assert leave.wait(20)
            return document

        b.service._open = slow
        threading.Thread(target=lambda: inside.wait(10) and cancel.set()).start()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            b.service.run(OcrRequest(source=RemoteUrl(url="http://example.com/a.pdf")), None, cancel)
        assert time.monotonic() - began < SOON and not document.closed
        leave.set()
        until(lambda: document.closed)
        assert b.loads == 0


# --- deadlines -------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def timed(patch: pytest.MonkeyPatch) -> Clock:
    """Deadlines by a clock that the test moves."""
    clock = Clock()
    patch.setattr("ocr_mlx.engine.service.Stop", lambda caller: Stop(caller, clock=clock))
    return clock


def test_pages_that_are_done_stay_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = timed(monkeypatch)
    with bench(max_rows=1) as b:
        b.document = FakeDocument([0, 0, 0, 0])
        b.model.processor.scripts[0] = [ids(LONG)]  # type: ignore[attr-defined]
        done: list[PageResult] = []

        def on_event(event: Event) -> None:
            if isinstance(event, PageDone):
                done.append(event.result)
            elif isinstance(event, TextDelta) and done:
                clock.now = 5.0

        result = b.service.run(request(timeout=5.0), on_event)
        first, *others = done
        assert (first.status, first.text, first.error) == ("ok", LONG, None)
        assert sorted(done, key=lambda page: page.index) == list(result.pages)
        for page in others:
            assert page.status is PageStatus.CANCELLED
            assert page.error is not None and page.error.code == "timed_out"
            assert "5 seconds" in page.error.message and "OCR_MLX_TIMEOUT" in page.error.message
        (text,) = (page.text for page in others if page.text)
        assert LONG.startswith(text) and text != LONG
        assert failure(result) is None


def test_a_document_of_which_nothing_was_read_in_time_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = timed(monkeypatch)
    with bench() as b:
        b.document = FakeDocument([0, 1])

        def on_event(event: Event) -> None:
            if isinstance(event, PageStarted):
                clock.now = 5.0

        result = b.service.run(request(timeout=1.0), on_event)
        told = failure(result)
        assert told is not None and told.code == "timed_out"


def test_loading_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = timed(monkeypatch)
    with bench() as b:

        def load(name: str, on_event: object) -> object:
            clock.now += 100.0
            return b.model

        monkeypatch.setattr(b.service.cache, "_load", load)
        assert b.service.run(request(timeout=5.0)).text == "first page"


def test_the_settings_time_holds_for_requests_that_name_none(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = timed(monkeypatch)

    def late(event: Event) -> None:
        if isinstance(event, PageStarted):
            clock.now += 60.0

    with bench(timeout=30.0) as b:
        assert b.service.run(request(), late).pages[0].status == "cancelled"
        assert b.service.run(request(timeout=100.0), late).pages[0].status == "ok"
        assert b.service.run(request(timeout=float("inf")), late).pages[0].status == "ok"


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), True, "5", 10**400])
def test_a_time_that_makes_no_sense_is_refused(seconds: object) -> None:
    with bench() as b, pytest.raises(InvalidOption, match="timeout"):
        b.service.run(request(timeout=seconds))
    check_timeout(None)
    check_timeout(float("inf"))


def test_who_gave_up_first_is_the_reason() -> None:
    clock, caller = Clock(), threading.Event()
    page = PageResult(index=0, status=PageStatus.CANCELLED)
    stop = Stop(caller, clock=clock)
    stop.limit(10.0)
    assert not stop.is_set()
    caller.set()
    assert stop.is_set()
    clock.now = 100.0
    assert not stop.timed_out and stop.explain(page) is page
    late = Stop(None, clock=clock)
    late.limit(1.0)
    clock.now = 101.0
    assert late.timed_out
    late.set()
    assert late.timed_out and late.explain(page).error is not None
