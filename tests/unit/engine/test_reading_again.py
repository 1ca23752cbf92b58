"""Pages that were read before: at once, and without the model's work."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ocr_mlx.domain import DecodeOverrides, Event, PageDone, PageResult, PageStarted, PageStatus, Prompt, TextDelta
from ocr_mlx.engine.page_cache import PageCache
from ocr_mlx.engine.page_files import PageFiles
from ocr_mlx.engine.recall import MOST_PAGES
from ocr_mlx.inference.guard import MIN_TOKENS
from ocr_mlx.observer import Observer
from tests.unit.engine.bench import Bench, bench
from tests.unit.fakes import FakeDocument, ids, request

ROOM = 1_000_000


class Counter(Observer):
    """What an observer is told of documents and pages."""

    def __init__(self) -> None:
        self.hits: list[bool] = []
        self.documents: list[str] = []
        self.pages: list[tuple[str, PageResult, float | None]] = []

    def document_started(self) -> None:
        self.documents.append("started")

    def document_done(self, error: str, seconds: float) -> None:
        self.documents.append(error or "done")

    def page_done(self, model: str, result: PageResult, first_token_seconds: float | None) -> None:
        self.pages.append((model, result, first_token_seconds))

    def page_cache(self, hit: bool) -> None:
        self.hits.append(hit)


def passes(b: Bench) -> int:
    return len(b.graph.prefills) + len(b.graph.widths)


def test_an_unchanged_page_is_not_read_again() -> None:
    seen = Counter()
    with bench(known=PageCache(ROOM), observer=seen) as b:
        b.document = FakeDocument([2, None])
        first = b.service.run(request()).pages
        before = passes(b)
        b.document = FakeDocument([None, 2])
        events: list[Event] = []
        again = b.service.run(request(), events.append).pages
        assert passes(b) == before
        assert [(page.index, page.status, page.text) for page in again] == [
            (0, "blank", ""),
            (1, "ok", "third\nin two rows"),
        ]
        assert all(page.cached for page in again) and not any(page.cached for page in first)
        assert again[1].token_ids == first[0].token_ids and again[1].confidence == first[0].confidence
        own = [e for e in events if getattr(e, "page", None) == 1 or (isinstance(e, PageDone) and e.result.index == 1)]
        assert own == [
            PageStarted(page=1),
            TextDelta(page=1, text="third\nin two rows", tokens=len(first[0].token_ids)),
            PageDone(result=again[1]),
        ]
        assert seen.hits == [False, False, True, True]


@pytest.mark.parametrize(
    "asked",
    [
        {"overrides": DecodeOverrides(max_new_tokens=100)},
        {"prompt": Prompt(text="other words")},
        {"prompt": Prompt(mode="together")},
        {"fresh": True},
    ],
)
def test_whoever_asks_otherwise_is_read_to(asked: dict[str, object]) -> None:
    with bench(known=PageCache(ROOM)) as b:
        b.service.run(request())
        before = passes(b)
        assert not b.service.run(request(**asked)).pages[0].cached
        assert passes(b) > before


def test_fresh_results_are_kept() -> None:
    with bench(known=PageCache(ROOM)) as b:
        b.service.run(request(fresh=True))
        assert b.service.run(request()).pages[0].cached


def test_sampled_pages_are_kept_only_with_a_seed() -> None:
    with bench(known=PageCache(ROOM)) as b:
        for overrides, cached in (
            (DecodeOverrides(temperature=0.5), False),
            (DecodeOverrides(temperature=0.5, seed=3), True),
        ):
            b.service.run(request(overrides=overrides))
            assert b.service.run(request(overrides=overrides)).pages[0].cached is cached


def test_what_did_not_come_to_its_end_is_read_again() -> None:
    with bench(known=PageCache(ROOM)) as b:
        b.model.processor.scripts += [[ids("ab" * MIN_TOKENS)]]  # type: ignore[attr-defined]
        b.document = FakeDocument([3, -1, 255, 1])
        short = request(overrides=DecodeOverrides(max_new_tokens=MIN_TOKENS + 60))
        for _ in range(2):
            pages = b.service.run(short).pages
            cached = [page.status for page in pages if page.cached]
        assert cached == [page.status for page in pages if page.status in ("ok", "loop_recovered")]
        assert [page.status for page in pages[1:3]] == ["failed", "failed"]


def words(number: int) -> str:
    """Enough of them that whoever gives up comes before the next page's end."""
    return f"page {number}: " + " ".join(str(n) for n in range(200))


def interrupted(b: Bench, pages: int, done: int) -> list[PageStatus]:
    """Read until `done` pages are done, then give up."""
    cancel = threading.Event()
    b.document = FakeDocument(list(range(pages)))
    b.model.processor.scripts[:] = [[ids(words(number))] for number in range(pages)]  # type: ignore[attr-defined]
    count = 0

    def on_event(event: Event) -> None:
        nonlocal count
        count += isinstance(event, PageDone)
        if count == done:
            cancel.set()

    return [page.status for page in b.service.run(request(), on_event, cancel).pages]


def test_a_document_interrupted_half_way_goes_on_where_it_stopped() -> None:
    with bench(max_rows=1, known=PageCache(ROOM)) as b:
        done = [status == "ok" for status in interrupted(b, pages=6, done=3)]
        assert 3 <= sum(done) < 6
        before = len(b.graph.prefills)
        result = b.service.run(request())
        assert [page.cached for page in result.pages] == done
        assert len(b.graph.prefills) - before == done.count(False)
        assert result.text == "\n\n".join(words(number) for number in range(6))


def test_another_process_goes_on_where_one_died(tmp_path: Path) -> None:
    with bench(max_rows=1, known=PageCache(ROOM, files=PageFiles(tmp_path, ttl=100.0))) as b:
        done = [status == "ok" for status in interrupted(b, pages=5, done=2)]
        scripts = b.model.processor.scripts  # type: ignore[attr-defined]
    with bench(max_rows=1, known=PageCache(0, files=PageFiles(tmp_path, ttl=100.0))) as b:
        b.model.processor.scripts[:] = scripts  # type: ignore[attr-defined]
        b.document = FakeDocument(list(range(5)))
        assert [page.cached for page in b.service.run(request()).pages] == done
        assert len(b.graph.prefills) == done.count(False) < 5


def test_pages_that_share_a_prompt_are_found_together() -> None:
    with bench(known=PageCache(ROOM)) as b:
        b.document = FakeDocument([0, 1, 1, 0])
        asked = request(prompt=Prompt(mode="together"))
        first = b.service.run(asked).pages
        again = b.service.run(asked).pages
        assert [(page.index, page.following, page.cached) for page in again] == [(0, (1,), True), (2, (3,), True)]
        assert [page.text for page in again] == [page.text for page in first]


def test_without_a_cache_nothing_is_looked_up() -> None:
    seen = Counter()
    with bench(observer=seen) as b:
        b.service.run(request())
        assert not b.service.run(request()).pages[0].cached
        assert seen.hits == []


def test_the_observer_is_told_of_documents_and_pages() -> None:
    seen = Counter()
    with bench(known=PageCache(ROOM), observer=seen) as b:
        b.document = FakeDocument([0, -1, None])
        result = b.service.run(request())
        assert seen.documents == ["started", "done"]
        assert sorted((page.index, model) for model, page, _ in seen.pages) == [(0, "fake"), (1, "fake"), (2, "fake")]
        assert {page.index: page for _, page, _ in seen.pages} == {page.index: page for page in result.pages}
        first = {page.index: seconds for _, page, seconds in seen.pages}
        assert first[0] is not None and 0 <= first[0] < 10 and first[1] is None and first[2] is None
        b.service.run(request())
        assert all(seconds is None for _, page, seconds in seen.pages if page.cached)
        b.document = FakeDocument([-1])
        b.service.run(request())
        with pytest.raises(BrokenPipeError):
            b.service.run(request(), lambda _event: (_ for _ in ()).throw(BrokenPipeError()))
        assert seen.documents[4:] == ["started", "error", "started", "error"]


# --- without the model -----------------------------------------------------------------------------------------------


def gone(b: Bench) -> None:
    """Let the idle model leave."""
    b.clock.advance(100)
    assert b.service.cache.snapshot() == ()


def test_a_document_that_is_known_whole_does_not_bring_its_model_back() -> None:
    seen = Counter()
    with bench(known=PageCache(ROOM), observer=seen) as b:
        b.document = FakeDocument([1, 2])
        first = b.service.run(request())
        gone(b)
        events: list[Event] = []
        b.document = document = FakeDocument([1, 2])
        again = b.service.run(request(), events.append)
        assert b.loads == 1 and document.closed
        assert [(page.text, page.cached) for page in again.pages] == [(page.text, True) for page in first.pages]
        assert again.model == "fake"
        assert [type(event).__name__ for event in events] == [
            "DocumentStarted",
            *("PageStarted", "TextDelta", "PageDone") * 2,
            "DocumentDone",
        ]
        assert seen.hits == [False, False, True, True]


def test_who_pins_a_model_has_it_in_memory_though_its_pages_are_known() -> None:
    with bench(known=PageCache(ROOM)) as b:
        b.document = FakeDocument([1])
        b.service.run(request())
        gone(b)
        assert b.service.run(request(keep_alive=-1.0)).pages[0].cached
        assert [model.pinned for model in b.service.cache.snapshot()] == [True] and b.loads == 2


def test_what_is_known_of_a_document_is_not_drawn_again() -> None:
    with bench(known=PageCache(ROOM)) as b:
        b.document = FakeDocument([0, 1])
        b.service.run(request())
        gone(b)
        b.document = document = FakeDocument([1, 0, 2, 0])
        pages = b.service.run(request()).pages
        assert b.loads == 2
        assert [(page.index, page.text, page.cached) for page in pages] == [
            (0, "second, a little longer", True),
            (1, "first page", True),
            (2, "third\nin two rows", False),
            (3, "first page", True),
        ]
        assert document.opened.count(0) == document.opened.count(1) == 1


@pytest.mark.parametrize(
    "asked", [{"fresh": True}, {"prompt": Prompt(mode="short")}, {"overrides": DecodeOverrides(temperature=1.0)}]
)
def test_the_model_comes_back_for_whatever_is_not_known(asked: dict[str, object]) -> None:
    with bench(known=PageCache(ROOM)) as b:
        b.service.run(request())
        gone(b)
        assert not b.service.run(request(**asked)).pages[0].cached
        assert b.loads == 2


def test_the_model_comes_back_when_its_files_have_changed(tmp_path: Path) -> None:
    with bench(known=PageCache(ROOM)) as b:
        b.model = replace(b.model, ref=replace(b.model.ref, path=tmp_path))
        b.service.run(request())
        gone(b)
        (tmp_path / "model.safetensors").write_bytes(b"new")
        b.model.kept.clear()
        assert not b.service.run(request()).pages[0].cached
        assert b.loads == 2


def test_a_long_document_is_not_looked_through_first() -> None:
    with bench(known=PageCache(ROOM)) as b:
        b.document = FakeDocument([0] * (MOST_PAGES + 1))
        b.service.run(request())
        gone(b)
        assert all(page.cached for page in b.service.run(request()).pages)
        assert b.loads == 2


def test_a_page_that_cannot_be_had_is_told_as_ever() -> None:
    with bench(known=PageCache(ROOM)) as b:
        b.document = FakeDocument([0, -1])
        b.service.run(request())
        gone(b)
        pages = b.service.run(request()).pages
        assert [(page.status, page.cached) for page in pages] == [("ok", True), ("failed", False)]
