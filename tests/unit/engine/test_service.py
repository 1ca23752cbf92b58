from __future__ import annotations

import threading

import pytest

from ocr_mlx.domain import (
    DecodeOverrides,
    DocumentDone,
    DocumentStarted,
    Event,
    OcrResult,
    Page,
    PageDone,
    PageStarted,
    PageStatus,
    Prompt,
    TextDelta,
)
from ocr_mlx.errors import Cancelled, InvalidOption, QueueFull, ShuttingDown, SourceNotFound
from ocr_mlx.model.base import Mode, PreparedPage
from tests.unit.engine.bench import bench
from tests.unit.fakes import FakeDocument, ids, request


def test_a_document_is_read_page_by_page_and_in_order() -> None:
    with bench() as b:
        b.document = FakeDocument([1, 0, 2])
        events: list[Event] = []
        result = b.service.run(request(), events.append)
        assert [page.text for page in result.pages] == ["second, a little longer", "first page", "third\nin two rows"]
        assert [page.index for page in result.pages] == [0, 1, 2]
        assert result.text.count("\n\n") == 2
        assert result.model == "fake"
        assert b.document.closed


def test_events_tell_the_whole_story() -> None:
    with bench() as b:
        b.document = FakeDocument([0, 1])
        events: list[Event] = []
        result = b.service.run(request(), events.append)
        kinds = [type(event) for event in events]
        assert DocumentStarted(model="fake", pages=(0, 1)) in events
        assert events[-1] == DocumentDone(result=result)
        for index in (0, 1):
            said = "".join(e.text for e in events if isinstance(e, TextDelta) and e.page == index)
            assert said == result.pages[index].raw_text
            own = [
                type(e)
                for e in events
                if getattr(e, "page", None) == index or (isinstance(e, PageDone) and e.result.index == index)
            ]
            assert own[0] is PageStarted and own[-1] is PageDone
        assert kinds.count(PageDone) == 2


def test_one_bad_page_and_one_blank_page_do_not_fail_the_document() -> None:
    with bench() as b:
        b.document = FakeDocument([0, -1, None, 1, 255])
        pages = b.service.run(request()).pages
        assert [page.status for page in pages] == ["ok", "failed", "blank", "ok", "failed"]
        assert pages[1].error is not None and pages[1].error.message == "This page is broken. Repair it."
        assert pages[2].text == ""


def test_a_prompt_that_the_model_does_not_take_refuses_the_document() -> None:
    with bench() as b:
        b.document = FakeDocument([0, 1])
        with pytest.raises(InvalidOption, match="cannot be asked"):
            b.service.run(request(prompt=Prompt(text="not 0")))
        assert b.document.closed
        assert b.service.run(request(prompt=Prompt(text="anything"))).pages[0].status == "ok"


def test_a_prompt_that_one_later_page_does_not_take_fails_that_page() -> None:
    with bench() as b:
        b.document = FakeDocument([0, 1, 0])
        prepare = b.model.processor.prepare
        refused = threading.Event()

        def late(page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
            if page.index == 0:
                refused.wait(10)
            try:
                return prepare(page, prompt, mode)
            finally:
                refused.set()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(b.model.processor, "prepare", late)
            statuses = [page.status for page in b.service.run(request(prompt=Prompt(text="not 1"))).pages]
        assert statuses == ["ok", "failed", "ok"]


def test_a_mode_may_read_several_pages_in_one_prompt() -> None:
    with bench() as b:
        b.document = FakeDocument([0, 1, 1, None, None, None, -1])
        events: list[Event] = []
        seen: list[int] = []
        prepare = b.model.processor.prepare

        def counting(page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
            seen.append(len(page.following))
            return prepare(page, prompt, mode)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(b.model.processor, "prepare", counting)
            pages = b.service.run(request(prompt=Prompt(mode="together")), events.append).pages
        assert [(page.index, page.following, page.status) for page in pages] == [
            (0, (1,), "ok"),
            (2, (3,), "ok"),
            (4, (5,), "blank"),
            (6, (), "failed"),
        ]
        assert seen == [1, 1]
        assert DocumentStarted(model="fake", pages=(0, 2, 4, 6)) in events


def test_a_page_that_cannot_be_had_fails_alone_and_those_with_it_are_read_without_it() -> None:
    with bench() as b:
        b.document = FakeDocument([0, -1, -1, 1, -1, -1, 1, 0])
        events: list[Event] = []
        pages = b.service.run(request(prompt=Prompt(mode="together")), events.append).pages
        assert [(page.index, page.following, page.status) for page in pages] == [
            (0, (), "ok"),
            (1, (), "failed"),
            (2, (), "failed"),
            (3, (), "ok"),
            (4, (), "failed"),
            (5, (), "failed"),
            (6, (7,), "ok"),
        ]
        assert pages[1].error is not None and pages[1].error.message == "This page is broken. Repair it."
        assert sorted(e.result.index for e in events if isinstance(e, PageDone)) == list(range(7))


def test_pages_decode_together() -> None:
    with bench() as b:
        hold = threading.Event()
        b.worker.call(lambda: hold.wait(10))
        b.document = FakeDocument([0, 1, 0, 1])
        started: list[int] = []

        def on_event(event: Event) -> None:
            if isinstance(event, PageStarted):
                started.append(event.page)
            if len(started) == 4:
                hold.set()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(b.service.cache, "_load", lambda name, on_event: b.model)
            b.service.run(request(), on_event)
        assert max(b.graph.widths) == 4


def test_two_requests_share_the_model_and_the_batch() -> None:
    with bench() as b:
        b.document = FakeDocument([1])
        both = threading.Barrier(2)
        texts: list[str] = []

        def read() -> None:
            def on_event(event: Event) -> None:
                if isinstance(event, DocumentStarted):
                    both.wait(10)

            texts.append(b.service.run(request(), on_event).text)

        entered = threading.Event()
        release = threading.Event()
        first = True

        def gate() -> None:
            nonlocal first
            if first:
                first = False
                entered.set()
                release.wait(0.2)

        b.graph.gate = gate
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert texts == ["second, a little longer"] * 2
        assert b.loads == 1
        assert max(b.graph.widths) == 2


def test_memory_stays_bounded_on_a_long_document() -> None:
    with bench(max_rows=2) as b:
        b.document = FakeDocument([0] * 40)
        open_at_done: list[int] = []

        def on_event(event: Event) -> None:
            if isinstance(event, PageDone):
                assert isinstance(b.document, FakeDocument)
                open_at_done.append(len(b.document.opened) - len(open_at_done))

        assert len(b.service.run(request(), on_event).pages) == 40
        assert max(open_at_done) <= 5
        assert max(b.graph.widths) <= 2


def test_cancel_ends_the_pages_that_are_not_done() -> None:
    with bench(max_rows=1) as b:
        b.document = FakeDocument([0, 1, 1, 1, 1, 1])
        cancel = threading.Event()

        def on_event(event: Event) -> None:
            if isinstance(event, PageDone) and event.result.index == 0:
                cancel.set()

        pages = b.service.run(request(), on_event, cancel).pages
        assert pages[0].status is PageStatus.OK
        assert pages[-1].status is PageStatus.CANCELLED
        assert len(pages) == 6


def test_a_listener_that_raises_stops_the_work() -> None:
    with bench(max_rows=1) as b:
        b.document = FakeDocument([0] * 20)

        def on_event(event: Event) -> None:
            if isinstance(event, TextDelta):
                raise BrokenPipeError

        with pytest.raises(BrokenPipeError):
            b.service.run(request(), on_event)
        assert isinstance(b.document, FakeDocument) and b.document.closed
        assert len(b.document.opened) < 20
        b.document = FakeDocument([1])
        assert b.service.run(request()).text == "second, a little longer"


def test_a_bad_source_never_loads_a_model() -> None:
    with bench() as b:
        b.document = SourceNotFound("No such file.")
        with pytest.raises(SourceNotFound):
            b.service.run(request())
        assert b.loads == 0


def test_an_unknown_mode_names_the_known_ones() -> None:
    with bench() as b, pytest.raises(InvalidOption, match="plain, short"):
        b.service.run(request(prompt=Prompt(mode="fancy")))


def test_overrides_reach_the_rows() -> None:
    with bench() as b:
        page = b.service.run(request(overrides=DecodeOverrides(max_new_tokens=5))).pages[0]
        assert (page.text, page.status) == ("first", "truncated")


def test_a_full_queue_says_so() -> None:
    with bench(queue_limit=1) as b:
        inside, leave = threading.Event(), threading.Event()

        def on_event(event: Event) -> None:
            if isinstance(event, DocumentStarted):
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=lambda: b.service.run(request(), on_event))
        thread.start()
        assert inside.wait(10)
        with pytest.raises(QueueFull) as caught:
            b.service.run(request())
        assert caught.value.seconds is None, "nothing is known yet of how long a document takes"
        leave.set()
        thread.join(10)
        assert b.service.run(request()).text == "first page"


def test_a_full_queue_says_when_a_place_may_be_free() -> None:
    with bench(queue_limit=2) as b:
        inside, leave = threading.Semaphore(0), threading.Event()

        def on_event(event: Event) -> None:
            if isinstance(event, DocumentStarted):
                inside.release()
                leave.wait(10)

        b.service._took(9.0)
        threads = [threading.Thread(target=lambda: b.service.run(request(), on_event)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert all(inside.acquire(timeout=10) for _ in threads)
        with pytest.raises(QueueFull) as caught:
            b.service.run(request())
        assert caught.value.seconds == 4.5, "of two that take nine seconds each, one ends every 4.5"
        leave.set()
        for thread in threads:
            thread.join(10)


def test_closing_ends_running_work_and_refuses_more() -> None:
    with bench() as b:
        started = threading.Event()
        results: list[OcrResult] = []
        b.document = FakeDocument([1] * 8)
        hold = threading.Event()
        b.worker.call(lambda: hold.wait(10))

        def on_event(event: Event) -> None:
            if isinstance(event, PageStarted):
                started.set()

        thread = threading.Thread(target=lambda: results.append(b.service.run(request(), on_event)))
        thread.start()
        assert started.wait(10)
        closer = threading.Thread(target=b.service.close)
        closer.start()
        hold.set()
        closer.join(20)
        thread.join(20)
        assert not thread.is_alive() and not closer.is_alive()
        assert results[0].pages[-1].status is PageStatus.CANCELLED
        with pytest.raises(ShuttingDown):
            b.service.run(request())


@pytest.mark.parametrize("kind", [DocumentStarted, PageStarted, PageDone])
def test_a_listener_may_raise_at_any_event(kind: type) -> None:
    with bench() as b:
        b.document = FakeDocument([0, 1])

        def on_event(event: Event) -> None:
            if isinstance(event, kind):
                raise BrokenPipeError

        with pytest.raises(BrokenPipeError):
            b.service.run(request(), on_event)


def test_a_run_that_fails_leaves_the_callers_flag_alone() -> None:
    with bench() as b:
        cancel = threading.Event()
        with pytest.raises(InvalidOption):
            b.service.run(request(prompt=Prompt(mode="none")), None, cancel)
        assert not cancel.is_set()
        assert b.service.run(request(), None, cancel).pages[0].status == "ok"


def test_runs_that_share_a_flag_are_counted_one_by_one() -> None:
    with bench(queue_limit=2) as b:
        shared = threading.Event()
        inside, leave = threading.Event(), threading.Event()

        def on_event(event: Event) -> None:
            if isinstance(event, DocumentStarted):
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=lambda: b.service.run(request(), on_event, shared))
        thread.start()
        assert inside.wait(10)
        b.service.run(request(), None, shared)
        assert len(b.service._active) == 1
        leave.set()
        thread.join(10)


def test_a_row_that_waits_for_a_place_is_cancelled_at_once() -> None:
    with bench(max_rows=1) as b:
        b.model.processor.scripts[0] = [ids("x" * 200)]  # type: ignore[attr-defined]
        cancel, release, ended = threading.Event(), threading.Event(), threading.Event()
        first = threading.Thread(target=lambda: b.service.run(request()))
        running = threading.Event()

        def gate() -> None:
            running.set()
            if cancel.is_set() and not ended.is_set():
                release.wait(0.01)

        b.graph.gate = gate
        first.start()
        assert running.wait(10)
        steps: list[int] = []

        def on_event(event: Event) -> None:
            if isinstance(event, PageStarted):
                cancel.set()

        pages = b.service.run(request(), on_event, cancel).pages
        steps.append(len(b.graph.widths))
        ended.set()
        assert pages[0].status == "cancelled"
        assert steps[0] < 190
        first.join(20)


def test_pages_of_many_rows_are_bounded_by_their_rows() -> None:
    with bench(max_rows=8) as b:
        b.model.processor.scripts[0] = [ids("a strip")] * 40  # type: ignore[attr-defined]
        b.document = FakeDocument([0] * 12)
        opened: list[int] = []

        def on_event(event: Event) -> None:
            if isinstance(event, PageDone):
                opened.append(len(b.document.opened) - len(opened))  # type: ignore[union-attr]

        b.service.run(request(), on_event)
        assert max(opened) <= 4


def test_what_the_request_asks_for_arrives() -> None:
    with bench() as b:
        assert b.service.run(request(prompt=Prompt(mode="short"))).pages[0].text == "first"
        b.service.run(request(dpi=300.0, padding=7))
        assert isinstance(b.document, FakeDocument)
        assert b.document.asked == [(96.0, 0), (300.0, 7)]
        b.service.run(request(keep_alive=-1))
        b.clock.advance(10**6)
        assert [(model.id, model.pinned) for model in b.service.cache.snapshot()] == [("fake", True)]


def test_a_request_that_is_cancelled_before_it_starts_is_refused_and_loads_nothing() -> None:
    with bench() as b:
        cancel = threading.Event()
        cancel.set()
        with pytest.raises(Cancelled):
            b.service.run(request(), None, cancel)
        assert b.loads == 0
        assert isinstance(b.document, FakeDocument) and b.document.closed


def test_options_that_make_no_sense_are_told_before_anything_is_opened() -> None:
    with bench() as b, pytest.raises(InvalidOption, match="seed"):
        b.document = SourceNotFound("No such file.")
        b.service.run(request(overrides=DecodeOverrides(seed=-1)))
