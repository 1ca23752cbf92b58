"""The runner on a real store, with a service that does what the test says; its threads only where the test is about them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ocr_mlx.domain import (
    DocumentDone,
    DocumentStarted,
    OcrRequest,
    OcrResult,
    OnEvent,
    PageDone,
    PageError,
    PageResult,
    PageStarted,
    PageStatus,
    Upload,
)
from ocr_mlx.errors import BadPdf, Cancelled, QueueFull, ShuttingDown
from ocr_mlx.jobs.local import reading
from ocr_mlx.jobs.local.runner import Runner, RunnerOptions
from ocr_mlx.jobs.local.store import SqliteStore
from ocr_mlx.jobs.records import Job, JobState
from tests.unit.jobs.made import a_job, a_page

WAIT = 10.0


@dataclass
class Reader:
    """Reads each page of a request in turn, as `read` says; `before` runs as each page begins."""

    read: Callable[[int], PageResult] = a_page
    before: Callable[[int, threading.Event], None] = lambda _index, _cancel: None
    refuse: list[Exception] = field(default_factory=list)
    asked: list[tuple[int, ...]] = field(default_factory=list)
    documents: list[bytes] = field(default_factory=list)

    def inspect(self, request: OcrRequest) -> tuple[int, ...]:
        raise NotImplementedError

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        assert on_event is not None and cancel is not None and isinstance(request.source, Upload)
        if self.refuse:
            raise self.refuse.pop(0)
        if cancel.is_set():
            raise Cancelled("The request was cancelled before its first page.")
        pages = tuple(int(number) - 1 for number in request.page_range.split(","))
        self.asked.append(pages)
        self.documents.append(request.source.data)
        on_event(DocumentStarted(model="fake", pages=pages))
        done = tuple(self._page(index, on_event, cancel) for index in pages)
        result = OcrResult(model="fake", pages=done, seconds=0.1)
        on_event(DocumentDone(result=result))
        return result

    def _page(self, index: int, on_event: OnEvent, cancel: threading.Event) -> PageResult:
        if not cancel.is_set():
            on_event(PageStarted(page=index))
            self.before(index, cancel)
        result = a_page(index, status=PageStatus.CANCELLED) if cancel.is_set() else self.read(index)
        on_event(PageDone(result=result))
        return result


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    store: SqliteStore
    reader: Reader = field(default_factory=Reader)
    clock: Clock = field(default_factory=Clock)
    finals: list[None] = field(default_factory=list)
    built: int = 0

    def __post_init__(self) -> None:
        self.runner = self.make()

    def make(self, **options: Any) -> Runner:
        def engine() -> Reader:
            self.built += 1
            return self.reader

        values = RunnerOptions(**({"at_once": 2, "page_seconds": 10.0, "drain": 0.0} | options))
        return Runner(self.store, engine, values, on_final=lambda: self.finals.append(None), clock=self.clock)

    def add(self, **more: Any) -> Job:
        job = a_job(**more)
        self.store.add(job, b"%PDF " + job.id.encode())
        return job

    def state(self, job: Job) -> tuple[JobState, int]:
        now = self.store.get(job.id)
        return now.state, now.done


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(SqliteStore(tmp_path / "jobs"))
    yield made
    made.runner.close()
    made.store.close()


def test_a_job_is_read_and_completed(bench: Bench) -> None:
    job = bench.add(pages=3)
    assert bench.runner.step() and not bench.runner.step()
    assert bench.state(job) == (JobState.COMPLETED, 3)
    assert [page.text for page in bench.store.pages(job.id)] == ["page 0", "page 1", "page 2"]
    assert bench.reader.documents == [b"%PDF " + job.id.encode()] and len(bench.finals) == 1


def test_the_engine_is_not_built_without_work(bench: Bench) -> None:
    assert not bench.runner.step()
    bench.runner.look()
    assert bench.built == 0


def test_only_missing_pages_are_read(bench: Bench) -> None:
    job = bench.add(pages=5)
    bench.store.put_page(job.id, a_page(1, "kept", following=(2,)))
    bench.runner.step()
    assert bench.reader.asked == [(0, 3, 4)]
    assert bench.state(job) == (JobState.COMPLETED, 5)
    assert [page.text for page in bench.store.pages(job.id)] == ["page 0", "kept", "page 3", "page 4"]


def test_a_job_whose_pages_are_all_there_is_only_concluded(bench: Bench) -> None:
    job = bench.add(pages=1)
    bench.store.put_page(job.id, a_page(0))
    bench.runner.step()
    assert bench.reader.asked == [] and bench.state(job) == (JobState.COMPLETED, 1)


def test_a_long_job_lets_others_in(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAGES_AT_A_TIME", 4)
    long, short = bench.add(pages=10), bench.add(pages=1)
    assert bench.runner.step()
    assert bench.state(long) == (JobState.PROCESSING, 4)
    assert bench.runner.step()
    assert bench.state(short) == (JobState.COMPLETED, 1)
    assert bench.runner.step()
    assert bench.state(long) == (JobState.COMPLETED, 10), "alone, it goes on by itself"
    assert [len(pages) for pages in bench.reader.asked] == [4, 1, 4, 2]


def test_a_job_that_has_had_its_turn_makes_way(bench: Bench) -> None:
    bench.runner = bench.make(at_once=1)
    long = bench.add(pages=6)
    short: list[Job] = []

    def on_the_way(index: int, _cancel: threading.Event) -> None:
        bench.clock.now += 2.0
        if index == 1:
            short.append(bench.add(pages=1))
        bench.runner.look()

    bench.reader.before = on_the_way
    assert bench.runner.step()
    assert bench.state(long) == (JobState.PROCESSING, 3), "the page that was being decoded is kept"
    assert bench.runner.step()
    assert bench.state(short[0]) == (JobState.COMPLETED, 1)
    assert bench.runner.step()
    assert bench.state(long) == (JobState.COMPLETED, 6)
    assert bench.reader.asked == [(0, 1, 2, 3, 4, 5), (0,), (3, 4, 5)]


def test_nobody_makes_way_where_a_thread_is_free(bench: Bench) -> None:
    long = bench.add(pages=6)

    def on_the_way(index: int, _cancel: threading.Event) -> None:
        bench.clock.now += 2.0
        if index == 1:
            bench.add(pages=1)
        bench.runner.look()

    bench.reader.before = on_the_way
    bench.runner.step()
    assert bench.state(long) == (JobState.COMPLETED, 6)


def test_a_bad_page_fails_alone_and_a_document_without_text_fails(bench: Bench) -> None:
    reason = PageError(code="bad_pdf", message="The page is damaged.")

    def read(index: int) -> PageResult:
        return a_page(index) if index else PageResult(index=0, status=PageStatus.FAILED, error=reason)

    bench.reader.read = read
    good, bad = bench.add(pages=2), bench.add(pages=1)
    bench.runner.step(), bench.runner.step()
    assert bench.state(good) == (JobState.COMPLETED, 2)
    assert bench.state(bad) == (JobState.FAILED, 1)
    assert bench.store.get(bad.id).error == reason


def test_an_error_of_the_document_fails_the_job_in_its_words(bench: Bench) -> None:
    job = bench.add()
    bench.reader.refuse = [BadPdf("The PDF is damaged.", hint="Repair it.")]
    bench.runner.step()
    error = bench.store.get(job.id).error
    assert bench.state(job)[0] is JobState.FAILED
    assert error == PageError(code="bad_pdf", message="The PDF is damaged. Repair it.")


def test_a_document_that_somebody_removed_fails_its_job(bench: Bench, tmp_path: Path) -> None:
    job = bench.add()
    (tmp_path / "jobs" / "documents" / job.id).unlink()
    bench.runner.step()
    error = bench.store.get(job.id).error
    assert bench.state(job)[0] is JobState.FAILED and error is not None and "gone from the disk" in error.message


def test_what_nobody_expected_fails_the_job_without_telling(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    job = bench.add()
    bench.reader.refuse = [RuntimeError("the letter of Mr Smith at /home/smith")]
    bench.runner.step()
    error = bench.store.get(job.id).error
    assert error is not None and "Smith" not in error.message + caplog.text and "smith" not in caplog.text


def test_a_full_engine_is_asked_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_RETRY_SECONDS", (0.0,))
    job = bench.add()
    bench.reader.refuse = [QueueFull("Full."), QueueFull("Full.")]
    bench.runner.step()
    assert bench.state(job) == (JobState.COMPLETED, 3)


def test_an_engine_that_ends_gives_the_job_back(bench: Bench) -> None:
    job = bench.add()
    bench.reader.refuse = [ShuttingDown("The end.")]
    with pytest.raises(ShuttingDown):
        bench.runner.step()
    assert bench.state(job) == (JobState.PROCESSING, 0) and bench.store.is_waiting()
    assert bench.store.get(job.id).attempts == 0


def test_an_engine_that_gives_nothing_does_not_go_round_for_ever(bench: Bench) -> None:
    job = bench.add(pages=1)
    bench.reader.run = lambda *_args: OcrResult(model="fake", pages=(), seconds=0.0)  # type: ignore[method-assign]
    bench.runner.step()
    assert bench.state(job)[0] is JobState.FAILED


def test_cancelling_ends_at_the_next_step_and_keeps_what_was_read(bench: Bench) -> None:
    job = bench.add(pages=5)

    def cancel_at_2(index: int, _cancel: threading.Event) -> None:
        if index == 2:
            bench.store.finish(job.id, JobState.CANCELLED, PageError(code="cancelled", message="Cancelled."))
            bench.runner.cancel(job.id)

    bench.reader.before = cancel_at_2
    bench.runner.step()
    assert bench.state(job) == (JobState.CANCELLED, 2)
    assert not bench.store.is_waiting()


def test_a_cancel_in_another_process_is_noticed(bench: Bench) -> None:
    job = bench.add(pages=5)

    def cancel_elsewhere(index: int, cancel: threading.Event) -> None:
        if index == 2:
            bench.store.finish(job.id, JobState.CANCELLED)
            assert not cancel.is_set()
            bench.runner.look()
            assert cancel.is_set()

    bench.reader.before = cancel_elsewhere
    bench.runner.step()
    assert bench.state(job) == (JobState.CANCELLED, 2)


def test_a_job_that_is_deleted_while_it_is_read(bench: Bench) -> None:
    job = bench.add(pages=5)

    def delete(index: int, _cancel: threading.Event) -> None:
        if index == 1:
            bench.store.delete(job.id)
            bench.runner.cancel(job.id)

    bench.reader.before = delete
    assert bench.runner.step()
    assert bench.store.listed(limit=9) == ()


def test_a_late_job_fails_and_its_pages_stay(bench: Bench) -> None:
    job = bench.add(pages=3)

    def slow(index: int, _cancel: threading.Event) -> None:
        bench.clock.now += 10.5
        bench.runner.look()
        assert (index < 2) or bench.store.get(job.id).done == 2

    bench.reader.before = slow
    bench.runner.step()
    ended = bench.store.get(job.id)
    assert (ended.state, ended.done) == (JobState.FAILED, 2)
    assert ended.error is not None and ended.error.code == "timed_out" and "10 seconds" in ended.error.message


def test_waiting_for_the_model_does_not_count_as_late(bench: Bench) -> None:
    job = bench.add(pages=1)
    reader = bench.reader
    usual = reader.run

    def loads_first(*args: Any) -> OcrResult:
        bench.clock.now += 1000
        bench.runner.look()
        return usual(*args)

    reader.run = loads_first  # type: ignore[method-assign]
    bench.runner.step()
    assert bench.state(job) == (JobState.COMPLETED, 1)


def test_stop_lets_running_pages_finish_and_begins_no_others(bench: Bench) -> None:
    job = bench.add(pages=5)

    def stop_in_2(index: int, cancel: threading.Event) -> None:
        if index == 2:
            bench.runner.stop()
            assert not cancel.is_set()

    bench.reader.before = stop_in_2
    bench.runner.step()
    assert bench.state(job) == (JobState.PROCESSING, 3)
    assert [page.status for page in bench.store.pages(job.id)] == [PageStatus.OK] * 3
    assert not bench.runner.step(), "no new work"
    assert Bench(bench.store).runner.step()
    assert bench.state(job) == (JobState.COMPLETED, 5)


def test_close_cancels_what_does_not_finish_in_time(bench: Bench) -> None:
    job = bench.add(pages=2)
    begun = threading.Event()

    def hang(index: int, cancel: threading.Event) -> None:
        begun.set()
        assert cancel.wait(WAIT)

    bench.reader.before = hang
    bench.runner.start()
    assert begun.wait(WAIT)
    bench.runner.close()
    assert bench.state(job) == (JobState.PROCESSING, 0) and bench.store.pages(job.id) == ()
    assert bench.store.get(job.id).attempts == 0 and bench.store.is_waiting()


def test_a_document_that_kills_the_server_is_given_up(bench: Bench) -> None:
    job = bench.add()
    with bench.store._changing() as files:
        files.db.execute("UPDATE jobs SET attempts = 5")
    bench.runner.step()
    ended = bench.store.get(job.id)
    assert ended.state is JobState.FAILED and bench.reader.asked == []
    assert ended.error is not None and "5 times" in ended.error.message


def test_a_death_counts_from_the_first_page_on(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    job = bench.add(pages=3)
    with bench.store._changing() as files:
        files.db.execute("UPDATE jobs SET attempts = 4, state = 'processing'")
    bench.store.put_page(job.id, a_page(0))
    with bench.store._changing() as files:
        files.db.execute("UPDATE jobs SET attempts = 4")
        files.db.execute("UPDATE pages SET owner = 'one that died'")
    found: list[int] = []
    usual = bench.reader.run

    def loads_first(*args: Any) -> OcrResult:
        found.append(bench.store.get(job.id).attempts)
        return usual(*args)

    bench.reader.run = loads_first  # type: ignore[method-assign]
    bench.reader.before = lambda _index, _cancel: found.append(bench.store.get(job.id).attempts)
    with caplog.at_level("INFO", "ocr_mlx.jobs"):
        bench.runner.step()
    assert found == [4, 5, 0], "loading, the first page, the second after one was stored"
    assert bench.state(job) == (JobState.COMPLETED, 3)
    assert f"job {job.id}: goes on at page 2 of 3" in caplog.text


def test_a_job_that_is_new_or_gave_way_goes_on_without_a_word(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reading, "PAGES_AT_A_TIME", 1)
    bench.add(pages=2), bench.add(pages=1)
    with caplog.at_level("INFO", "ocr_mlx.jobs"):
        while bench.runner.step():
            pass
    assert caplog.text.count("completed") == 2 and "goes on" not in caplog.text


def test_a_store_that_fails_takes_no_job_with_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.add(pages=3)
    usual = SqliteStore.put_page
    from ocr_mlx.errors import EngineError

    def broken(self: SqliteStore, job_id: str, page: PageResult) -> bool:
        if page.index == 1:
            raise EngineError("The disk is full.")
        return usual(self, job_id, page)

    monkeypatch.setattr(SqliteStore, "put_page", broken)
    with pytest.raises(EngineError):
        bench.runner.step()
    assert bench.state(job) == (JobState.PROCESSING, 1)
    monkeypatch.undo()
    assert bench.runner.step()
    assert bench.state(job) == (JobState.COMPLETED, 3)
    assert bench.reader.asked == [(0, 1, 2), (1, 2)]


def test_the_threads_take_what_is_submitted_and_read_side_by_side(bench: Bench) -> None:
    both = threading.Barrier(2)
    bench.reader.before = lambda _index, _cancel: both.wait(WAIT) and None
    bench.runner.start()
    jobs = [bench.add(pages=1), bench.add(pages=1)]
    for job in jobs:
        bench.runner.submitted(job)
    done = threading.Event()
    bench.runner._on_final = lambda: done.set() if all(bench.state(j)[0].final for j in jobs) else None
    assert done.wait(WAIT) or all(bench.state(job)[0].final for job in jobs)


def test_jobs_of_a_dead_process_go_on(bench: Bench, tmp_path: Path) -> None:
    job = bench.add(pages=4)
    dead = SqliteStore(tmp_path / "jobs")
    assert dead.claim(()) is not None
    dead.begin(job.id)
    dead.put_page(job.id, a_page(0, "read before"))
    assert not bench.runner.step()
    assert dead._files is not None
    dead._files.db.close()
    dead._files._owner.close()
    dead._files = None
    dead.close()
    bench.runner.look()
    assert bench.runner.step()
    assert bench.reader.asked == [(1, 2, 3)] and bench.state(job) == (JobState.COMPLETED, 4)
    assert bench.store.pages(job.id)[0].text == "read before"
    assert replace(bench.store.get(job.id), pages=()).attempts == 0
