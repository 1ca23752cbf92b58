"""Units, the sweep and the reader against a real Redis, with an engine that does as the test says."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ocr_mlx.domain import DocumentStarted, OcrRequest, OcrResult, OnEvent, PageDone, PageStatus
from ocr_mlx.domain import PageError as Reason
from ocr_mlx.errors import (
    InvalidOption,
    JobNotFound,
    JobsUnavailable,
    OcrMlxError,
    OutOfMemory,
    UnknownModel,
    UnsupportedArchitecture,
)
from ocr_mlx.jobs.records import Job, JobState
from ocr_mlx.jobs.redis.jobs import pages_together
from ocr_mlx.jobs.redis.queue import KEY, Queue
from ocr_mlx.jobs.redis.store import RedisStore, keys
from ocr_mlx.jobs.redis.sweep import Sweeper
from ocr_mlx.jobs.redis.units import UNKNOWN_SECONDS, Claim, Unit, Units
from ocr_mlx.jobs.redis.worker import MOST_TRIES, UnitReader
from tests.process.redis_server import RedisServer, eventually, redis_server  # noqa: F401
from tests.unit.jobs.made import a_job, a_page

CLAIM_SECONDS = 0.4


@dataclass
class Engine:
    """Reads every page of a request, unless told otherwise."""

    raises: list[OcrMlxError | None] = field(default_factory=list)
    """What the next calls raise."""
    before: Callable[[OcrRequest, threading.Event], None] = lambda request, cancel: None
    together: int = 1
    asked: list[str] = field(default_factory=list)
    page_error: Reason | None = None
    lasts: int | None = None
    """After how many pages it runs out of memory."""

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        assert on_event is not None and cancel is not None
        self.asked.append(request.page_range)
        if self.raises and (error := self.raises.pop(0)) is not None:
            raise error
        indices = [int(number) - 1 for number in request.page_range.split(",")]
        on_event(DocumentStarted(model="builtin", pages=tuple(indices)))
        self.before(request, cancel)
        for at in range(0, len(indices), self.together):
            if at == self.lasts:
                raise OutOfMemory("The device ran out of memory.")
            first, *rest = indices[at : at + self.together]
            page = a_page(first, following=tuple(rest))
            if cancel.is_set():
                page = replace(page, status=PageStatus.CANCELLED, text="")
            elif self.page_error:
                page = replace(page, status=PageStatus.FAILED, error=self.page_error, text="")
            on_event(PageDone(result=page))
        return OcrResult(model="builtin", pages=(), seconds=0.0)

    def inspect(self, request: OcrRequest) -> tuple[int, ...]:
        raise NotImplementedError


class Bench:
    """Everything of a worker and a server but their processes."""

    def __init__(self, url: str) -> None:
        self.store = RedisStore(url, together=lambda _model, mode: int(mode or 1))
        self.units = Units(self.store, queue=KEY, claim_seconds=CLAIM_SECONDS)
        self.engine = Engine()
        self.queue = Queue(url, self._read)
        self.sent: list[Unit] = []
        self.now = 0.0
        self.ended = 0
        self.sweeper = Sweeper(
            self.store, self.units, self._send, page_seconds=10.0, on_final=self._count, clock=lambda: self.now
        )
        self.reader = UnitReader(self.store, self.units, self._back, self.engine, longest_rest=0.05)

    def job(self, pages: int = 3, *, together: int = 1) -> Job:
        request = replace(a_job().request, prompt=replace(a_job().request.prompt, mode=str(together)))
        job = a_job(pages, request=request)
        self.store.add(job, b"%PDF")
        return job

    def claim(self, job: Job, number: int = 0, owner: str = "me") -> Claim:
        claim = self.units.claim(self.units.cut(job.id)[number], owner)
        assert isinstance(claim, Claim)
        return claim

    def close(self) -> None:
        self.queue.close()
        self.store.close()

    def _read(self, job_id: str, number: int) -> None:
        self.reader.read(job_id, number)

    def _send(self, unit: Unit) -> str:
        self.sent.append(unit)
        return f"message-{len(self.sent)}"

    def _back(self, unit: Unit) -> None:
        self.sent.append(unit)

    def _count(self) -> None:
        self.ended += 1


@pytest.fixture
def bench(redis_server: RedisServer) -> Iterator[Bench]:  # noqa: F811
    made = Bench(redis_server.url)
    yield made
    made.close()


def test_a_unit_belongs_to_one_until_its_claim_ends(bench: Bench) -> None:
    job = bench.job()
    mine = bench.claim(job)
    unit = mine.unit
    assert (mine.missing, mine.tries, bench.store.get(job.id).state) == ((0,), 1, JobState.PROCESSING)
    assert bench.units.claim(unit, "other") == "taken"
    for _ in range(3):
        time.sleep(CLAIM_SECONDS / 2)
        assert bench.units.renew(mine)
    assert bench.units.claim(unit, "other") == "taken"
    time.sleep(CLAIM_SECONDS * 1.2)
    theirs = bench.claim(job, owner="other")
    assert theirs.tries == 2
    assert not bench.units.renew(mine)
    bench.units.release(mine)
    assert bench.units.claim(unit, "third") == "taken"
    bench.units.release(theirs, tried=False)
    assert bench.claim(job, owner="third").tries == 2


def test_what_is_read_or_over_is_not_claimed(bench: Bench) -> None:
    job = bench.job(4, together=2)
    bench.store.put_page(job.id, a_page(0))
    first, second = bench.units.cut(job.id)
    assert (first.pages, second.pages) == ((0, 1), (2, 3))
    assert bench.claim(job).missing == (1,)
    bench.store.put_page(job.id, a_page(1))
    assert bench.units.claim(first, "other") == "done"
    bench.store.finish(job.id, JobState.CANCELLED)
    assert bench.units.claim(second, "other") == "final"


def test_pages_are_cut_as_the_model_reads_them() -> None:
    assert pages_together("builtin", "") == 1
    assert pages_together("got", "multi-page") > 1
    assert pages_together("openai+http://127.0.0.1:8000/v1#model", "") == 1
    assert pages_together("somebody/unknown-model", "") == 0


def test_a_document_of_an_unknown_model_is_one_unit(bench: Bench) -> None:
    job = bench.job(5, together=0)
    bench.reader.read(job.id, 0)
    assert bench.engine.asked == ["1,2,3,4,5"]
    assert bench.store.get(job.id).state is JobState.COMPLETED


def test_the_last_page_ends_the_job_and_a_message_too_many_costs_nothing(bench: Bench) -> None:
    job = bench.job(3)
    for number in (2, 0, 0, 2):
        bench.reader.read(job.id, number)
    assert bench.store.get(job.id).state is JobState.PROCESSING
    bench.reader.read(job.id, 1)
    bench.reader.read(job.id, 1)
    bench.reader.read("no-such-job", 0)
    assert bench.engine.asked == ["3", "1", "2"]
    assert bench.store.get(job.id).state is JobState.COMPLETED
    assert [page.text for page in bench.store.pages(job.id)] == ["page 0", "page 1", "page 2"]


def test_pages_that_share_a_prompt_are_one_unit(bench: Bench) -> None:
    job = bench.job(5, together=2)
    bench.engine.together = 2
    for number in range(3):
        bench.reader.read(job.id, number)
    ended = bench.store.get(job.id)
    assert bench.engine.asked == ["1,2", "3,4", "5"]
    assert (ended.state, ended.done) == (JobState.COMPLETED, 5)
    assert [page.following for page in bench.store.pages(job.id)] == [(1,), (3,), ()]


def test_trouble_of_this_machine_is_tried_again_and_told_at_the_end(bench: Bench) -> None:
    job = bench.job(1)
    bench.engine.page_error = Reason(code=OutOfMemory.code, message="The device ran out of memory.")
    for attempt in range(MOST_TRIES):
        assert bench.store.get(job.id).done == 0, attempt
        bench.reader.read(job.id, 0)
    ended = bench.store.get(job.id)
    assert (ended.state, len(bench.engine.asked)) == (JobState.FAILED, MOST_TRIES)
    assert ended.error is not None and ended.error.code == OutOfMemory.code


def test_a_bad_page_gets_a_second_opinion(bench: Bench) -> None:
    job = bench.job(1)
    bench.engine.page_error = Reason(code="bad_pdf", message="Page 1 of the PDF was not ready within 15 seconds.")
    bench.reader.read(job.id, 0)
    assert bench.store.get(job.id).done == 0
    bench.reader.read(job.id, 0)
    assert bench.store.get(job.id).state is JobState.FAILED
    assert len(bench.engine.asked) == 2


def test_a_machine_that_slept_does_not_spoil_what_another_took_over(bench: Bench) -> None:
    job = bench.job(1)
    bench.engine.page_error = Reason(code="bad_image", message="The picture is damaged.")

    def sleeps(request: OcrRequest, cancel: threading.Event) -> None:
        time.sleep(CLAIM_SECONDS * 1.2)
        bench.claim(job, owner="other")

    bench.engine.before = sleeps
    bench.reader.read(job.id, 0)
    assert bench.store.pages(job.id) == ()


def test_a_model_that_one_machine_lacks_another_may_have(bench: Bench) -> None:
    """A folder that is not there, a family that only a later version knows."""
    job, hopeless = bench.job(1), bench.job(3)
    bench.engine.raises = [UnknownModel("There is no such model."), UnsupportedArchitecture("It is not known."), None]
    for _ in range(3):
        bench.reader.read(job.id, 0)
    assert bench.store.get(job.id).state is JobState.COMPLETED
    bench.engine.raises = [UnknownModel("There is no such model.")] * MOST_TRIES
    for _ in range(MOST_TRIES):
        assert not bench.store.get(hopeless.id).state.final
        bench.reader.read(hopeless.id, 2)
    ended = bench.store.get(hopeless.id)
    assert ended.state is JobState.FAILED and ended.error is not None and ended.error.code == "unknown_model"


def test_what_no_machine_can_do_ends_the_job_at_once(bench: Bench) -> None:
    other = bench.job(3)
    bench.engine.raises = [InvalidOption("No such mode.")]
    bench.reader.read(other.id, 1)  # the second page alone cannot be asked that
    assert [page.status for page in bench.store.pages(other.id)] == [PageStatus.FAILED]
    bench.engine.raises = [InvalidOption("No such mode.")]
    bench.reader.read(other.id, 0)
    ended = bench.store.get(other.id)
    assert ended.state is JobState.FAILED and ended.error is not None and ended.error.code == "invalid_option"


@pytest.mark.slow
def test_a_page_that_ends_its_workers_is_given_up(bench: Bench) -> None:
    job = bench.job(2)
    for attempt in range(MOST_TRIES):
        bench.claim(job, owner=f"dies-{attempt}")
        time.sleep(CLAIM_SECONDS * 1.2)
    bench.reader.read(job.id, 0)
    bench.reader.read(job.id, 1)
    first, second = bench.store.pages(job.id)
    assert first.status is PageStatus.FAILED and first.error is not None and "never finished" in first.error.message
    assert second.status is PageStatus.OK and bench.engine.asked == ["2"]


def test_progress_in_a_long_unit_makes_its_tries_count_anew(bench: Bench) -> None:
    job = bench.job(10, together=0)
    bench.engine.lasts = 1
    for _ in range(10):
        bench.reader.read(job.id, 0)
    assert bench.store.get(job.id).state is JobState.COMPLETED
    assert {page.status for page in bench.store.pages(job.id)} == {PageStatus.OK}


def test_a_cancelled_job_stops_what_is_read_and_nothing_more_is_stored(bench: Bench) -> None:
    job = bench.job(1)

    def is_cancelled_meanwhile(request: OcrRequest, cancel: threading.Event) -> None:
        bench.store.finish(job.id, JobState.CANCELLED)
        bench.reader.beat()
        assert cancel.is_set()

    bench.engine.before = is_cancelled_meanwhile
    bench.reader.read(job.id, 0)
    assert bench.store.pages(job.id) == () and bench.sent == []


def test_a_worker_that_leaves_gives_its_unit_back(bench: Bench) -> None:
    job = bench.job(1)
    bench.engine.before = lambda request, cancel: bench.reader.give_up()
    bench.reader.read(job.id, 0)
    assert [unit.number for unit in bench.sent] == [0]
    assert bench.claim(job).tries == 1


def test_a_result_waits_for_a_redis_that_comes_back(bench: Bench, redis_server: RedisServer) -> None:  # noqa: F811
    job = bench.job(1)
    bench.engine.before = lambda request, cancel: redis_server.kill()
    reading = threading.Thread(target=bench.reader.read, args=(job.id, 0))
    reading.start()
    eventually(lambda: bench.engine.asked == ["1"], 5)
    with pytest.raises(JobsUnavailable):
        bench.store.get(job.id)
    redis_server.start()
    reading.join(15)
    assert bench.store.get(job.id).state is JobState.COMPLETED


@pytest.mark.slow
def test_lost_units_are_sent_again_ever_more_seldom(bench: Bench) -> None:
    job = bench.job(2)
    bench.sweeper.sweep()
    assert [unit.number for unit in bench.sent] == [0, 1]
    bench.sweeper.sweep()
    assert len(bench.sent) == 2
    time.sleep(UNKNOWN_SECONDS)
    bench.claim(job, 1)
    assert lost(bench, job) == [0]
    bench.sweeper.sweep()
    assert [unit.number for unit in bench.sent] == [0, 1, 0]
    time.sleep(UNKNOWN_SECONDS)
    assert lost(bench, job) == [1]


def lost(bench: Bench, job: Job) -> list[int]:
    return [unit.number for unit in bench.units.survey(job.id, elapsed=0.0).lost]


@pytest.mark.slow
def test_a_unit_in_a_queue_that_moves_is_not_sent_again(bench: Bench) -> None:
    job = bench.job(1)
    unit = bench.units.cut(job.id)[0]
    bench.units.sent(unit, bench.queue.send(unit))
    time.sleep(UNKNOWN_SECONDS)
    assert lost(bench, job) == []


def test_one_sweeps_at_a_time(bench: Bench) -> None:
    bench.job(1)
    other = Sweeper(bench.store, bench.units, bench._send, page_seconds=1.0)
    bench.sweeper.sweep()
    other.sweep()
    assert len(bench.sent) == 1
    bench.store.client.delete("ocr_mlx:sweeper")
    assert bench.units.lead("other", 5.0) and not bench.units.lead("me", 5.0)


def test_a_job_that_decodes_for_too_long_fails_and_waiting_does_not_count(bench: Bench) -> None:
    job = bench.job(1)
    for _ in range(3):
        bench.now += 25.0
        bench.sweeper.sweep()
    assert bench.store.get(job.id).state is JobState.PENDING
    claim = bench.claim(job)
    bench.units.renew(claim, decoding=False)
    bench.now += 25.0
    bench.sweeper.sweep()
    assert not bench.store.get(job.id).state.final
    bench.units.renew(claim)
    bench.now += 25.0
    bench.sweeper.sweep()
    ended = bench.store.get(job.id)
    assert ended.state is JobState.FAILED and ended.error is not None and ended.error.code == "timed_out"
    assert bench.ended == 1 and not bench.units.renew(claim)


def test_a_job_whose_last_reader_died_before_it_said_so_is_ended(bench: Bench) -> None:
    job = bench.job(1)
    bench.store.put_page(job.id, a_page(0))
    bench.sweeper.sweep()
    assert bench.store.get(job.id).state is JobState.COMPLETED
    assert bench.ended == 1


def test_the_queue_brings_units_to_threads_and_gives_back_what_nobody_began(bench: Bench) -> None:
    job = bench.job(8)
    gate = threading.Event()
    bench.engine.before = lambda request, cancel: gate.wait(10) and None
    for unit in bench.units.cut(job.id):
        bench.queue.send(unit)
    bench.queue.work(2)
    eventually(lambda: len(bench.engine.asked) == 2, 5)
    bench.queue.pause()
    gate.set()
    bench.queue.stop(5)
    done = bench.store.get(job.id).done
    assert 2 <= done <= 4
    assert bench.store.client.llen(KEY) == 8 - done


def test_a_job_of_another_version_holds_up_nobody(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    strange, plain = bench.job(1), bench.job(1)
    record = bench.store.client.hget(keys(strange.id)[0], "record")
    bench.store.client.hset(keys(strange.id)[0], "record", record.replace(b'"kind":"pdf"', b'"kind":"parchment"'))
    for _ in range(2):
        bench.sweeper.sweep()
    assert [unit.job_id for unit in bench.sent] == [plain.id], "the sweep goes on after it"
    bench.reader.read(strange.id, 0)
    assert bench.engine.asked == [] and caplog.text.count("another version of ocr_mlx") == 2
    with pytest.raises(JobsUnavailable, match="same version"):
        bench.store.get(strange.id)
    assert [job.id for job in bench.store.listed(limit=9)] == [plain.id]
    bench.store.delete(strange.id)


def test_a_job_whose_document_is_gone_fails_in_those_words(bench: Bench) -> None:
    job = bench.job(2)
    bench.store.client.delete(keys(job.id)[4])
    for number in range(2):
        bench.reader.read(job.id, number)
    ended = bench.store.get(job.id)
    assert (ended.state, bench.engine.asked) == (JobState.FAILED, [])
    assert ended.error is not None and ended.error.message == (
        "The document of this job is gone from the job queue (Redis). Send it again."
    )
    with pytest.raises(JobNotFound):
        bench.store.document(job.id)


def test_a_clock_of_redis_that_is_set_back_holds_up_nothing(bench: Bench) -> None:
    """What was noted before lies an hour ahead: a claim of a worker that died, a message that is lost, a rest."""
    job = bench.job(3)
    dead = bench.claim(job, 0, "dead")
    units = keys(job.id)[3]
    later = int(bench.store.client.time()[0] + 3600) * 1000
    notes = {"claim:0": f"{later} dead", "reads:0": later, "rest:1": later, "sent:2": f"{later} gone", "sends:2": 1}
    bench.store.client.hset(units, mapping=notes)
    survey = bench.units.survey(job.id, elapsed=1.0)
    assert [unit.number for unit in survey.lost] == [0, 1, 2]
    assert not survey.is_read and survey.worked == 0.0
    living = bench.claim(job, 0, "living")
    assert not bench.units.renew(dead) and bench.units.renew(living)
    bench.store.client.hset(units, "claim:0", f"{later} living")
    assert bench.units.renew(living), "who still reads it keeps it"
    assert bench.units.claim(living.unit, "other") == "taken"
    bench.store.client.hset(units, "claim:0", f"{later} dead")
    assert bench.units.renew(living), "what reaches too far is nobody's"


def test_a_full_redis_tells_what_it_has_and_forgets_what_is_over(bench: Bench, redis_server: RedisServer) -> None:  # noqa: F811
    store = RedisStore(redis_server.url, ttl=0.0)
    over, told = a_job(1), a_job(1, webhook_url="https://example.org/")
    for job in (over, told):
        store.add(job, b"%PDF")
        store.put_page(job.id, a_page(0))
        store.finish(job.id, JobState.COMPLETED)
    sweeper = Sweeper(store, Units(store, queue=KEY), bench._send, page_seconds=1.0)
    store.client.config_set("maxmemory", 1)
    assert [page.text for page in store.pages(over.id)] == ["page 0"]
    with pytest.raises(JobsUnavailable, match="is full"):
        sweeper.sweep()
    with pytest.raises(JobNotFound):
        store.get(over.id)
    assert store.get(told.id).state is JobState.COMPLETED and len(store.listed(limit=9)) == 1
    store.delete(told.id)
    store.close()


class Killed(BaseException):
    """Nothing of the worker happens after this."""


@pytest.mark.slow
def test_a_worker_that_dies_between_any_two_commands(
    redis_server: RedisServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    for most in itertools.count():
        dying, other = Bench(redis_server.url), Bench(redis_server.url)
        job, commands, run = dying.job(1), itertools.count(), dying.store.run

        def counted(name: str, *rest: Any, most: int = most, commands: Any = commands, run: Any = run) -> Any:
            if next(commands) >= most:
                raise Killed
            return run(name, *rest)

        monkeypatch.setattr(dying.store, "run", counted)
        with contextlib.suppress(Killed):
            dying.reader.read(job.id, 0)
        state, stored = other.store.get(job.id).state, len(other.store.pages(job.id))
        time.sleep(0 if state.final else CLAIM_SECONDS * 1.2)
        other.reader.read(job.id, 0)
        other.sweeper.sweep()
        assert other.store.get(job.id).state is JobState.COMPLETED and len(other.store.pages(job.id)) == 1
        assert len(other.engine.asked) == 1 - stored, "what is stored is not read again"
        told.append((state, stored))
        for bench in (dying, other):
            bench.store.client.delete("ocr_mlx:sweeper")
            bench.close()
        if state.final:
            break
    begun = JobState.PROCESSING
    assert told == [(JobState.PENDING, 0), (begun, 0), (begun, 1), (JobState.COMPLETED, 1)]
