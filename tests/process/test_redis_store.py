"""What every store of jobs promises, asked of SQLite in a folder and of a real Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis

from ocr_mlx.domain import PageError, PageStatus
from ocr_mlx.errors import JobNotFound, JobsUnavailable, QueueFull
from ocr_mlx.jobs.base import JobStore
from ocr_mlx.jobs.local.store import SqliteStore
from ocr_mlx.jobs.records import Delivery, JobState
from ocr_mlx.jobs.redis.store import PREFIX, RedisRefuses, RedisStore, connect, reached
from tests.process.redis_server import RedisServer, eventually, redis_server  # noqa: F401
from tests.unit.jobs.made import a_job, a_page

Open = Callable[..., JobStore]
UNKNOWN = "00000000-0000-0000-0000-000000000000"


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "redis"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    stores: list[JobStore] = []
    server: RedisServer | None = request.getfixturevalue("redis_server") if request.param == "redis" else None

    def make(**more: Any) -> JobStore:
        stores.append(SqliteStore(tmp_path / "jobs", **more) if server is None else RedisStore(server.url, **more))
        return stores[-1]

    yield make
    for one in stores:
        one.close()


@pytest.fixture
def store(another: Open, clock: Clock) -> JobStore:
    return another(clock=clock, ttl=60.0)


def test_a_job_comes_back_as_it_went_in_and_other_processes_see_it(store: JobStore, another: Open) -> None:
    job = a_job(3, webhook_url="http://example.org/hook")
    store.add(job, b"%PDF data")
    other = another()
    assert other.get(job.id) == job
    assert other.document(job.id) == b"%PDF data"
    assert other.pages(job.id) == ()


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    asks: list[Callable[[], object]] = [
        lambda: store.get(UNKNOWN),
        lambda: store.document(UNKNOWN),
        lambda: store.pages(UNKNOWN),
        lambda: store.begin(UNKNOWN),
        lambda: store.put_page(UNKNOWN, a_page()),
        lambda: store.finish(UNKNOWN, JobState.FAILED),
        lambda: store.deliver(UNKNOWN, lambda delivery: delivery),
        lambda: store.delete(UNKNOWN),
    ]
    for ask in asks:
        with pytest.raises(JobNotFound):
            ask()
    assert store.listed(limit=10) == () and store.due(1e12, lease=1) == ()


def test_a_job_begins_once(store: JobStore, clock: Clock) -> None:
    job = a_job()
    store.add(job, b"x")
    clock.now = 1010.0
    assert (store.begin(job.id).state, store.get(job.id).started) == (JobState.PROCESSING, 1010.0)
    clock.now = 1020.0
    assert store.begin(job.id).started == 1010.0


def test_every_page_is_stored_once_and_done_is_exact(store: JobStore, clock: Clock) -> None:
    job = replace(a_job(), pages=tuple(range(2, 42)))
    store.add(job, b"x")
    store.begin(job.id)
    clock.now = 1030.0
    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(lambda n: store.put_page(job.id, a_page(2 + n % 40, f"try {n}")), range(160)))
    assert sum(stored) == 40
    assert [page.index for page in store.pages(job.id)] == list(range(2, 42))
    assert (store.get(job.id).done, store.get(job.id).updated) == (40, 1030.0)


def test_pages_come_in_the_order_asked_for_and_whole(store: JobStore) -> None:
    job = replace(a_job(), pages=(7, 2, 11))
    store.add(job, b"x")
    failed = a_page(2, status=PageStatus.FAILED, error=PageError(code="bad_pdf", message="The page is damaged."))
    for page in (a_page(11), failed, a_page(7, "Zeile eins\nµ 漢字 \x00")):
        assert store.put_page(job.id, page)
    assert [page.index for page in store.pages(job.id)] == [7, 2, 11]
    assert store.pages(job.id)[1] == failed and store.pages(job.id)[0].text == "Zeile eins\nµ 漢字 \x00"


def test_pages_that_were_read_with_another_count_and_are_not_stored_again(store: JobStore) -> None:
    job = a_job(4)
    store.add(job, b"x")
    assert store.put_page(job.id, a_page(0, following=(1, 2)))
    assert store.get(job.id).done == 3
    assert not store.put_page(job.id, a_page(1))
    assert store.get(job.id).done == 3 and len(store.pages(job.id)) == 1


def test_only_one_ends_a_job_and_nothing_changes_after_that(store: JobStore, clock: Clock) -> None:
    job = a_job()
    store.add(job, b"x")
    clock.now = 1040.0
    reason = PageError(code="timed_out", message="The job took too long.")
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: store.finish(job.id, JobState.FAILED, reason), range(8))) == 1
    assert not store.finish(job.id, JobState.COMPLETED)
    assert not store.put_page(job.id, a_page())
    ended = store.begin(job.id)
    assert (ended.state, ended.error, ended.finished, ended.done) == (JobState.FAILED, reason, 1040.0, 0)
    assert ended.request.password is None
    with pytest.raises(JobNotFound):
        store.document(job.id)


def test_the_newest_jobs_come_first_and_states_select(store: JobStore) -> None:
    jobs = [replace(a_job(), created=float(n)) for n in range(5)]
    for job in jobs:
        store.add(job, b"x")
    store.finish(jobs[1].id, JobState.CANCELLED)
    assert [job.created for job in store.listed(limit=3)] == [4.0, 3.0, 2.0]
    assert [job.id for job in store.listed(limit=3, state=JobState.CANCELLED)] == [jobs[1].id]
    assert len(store.listed(limit=10, state=JobState.PENDING)) == 4


def test_too_many_waiting_jobs_are_refused(another: Open) -> None:
    store = another(most_waiting=2)
    store.add(a_job(), b"x")
    store.add(a_job(), b"x")
    with pytest.raises(QueueFull):
        store.add(a_job(), b"x")
    assert len(store.listed(limit=10)) == 2


def test_a_webhook_is_due_at_the_end_for_one_at_a_time(store: JobStore, clock: Clock, another: Open) -> None:
    job, quiet = a_job(webhook_url="http://example.org/hook"), a_job()
    for one in (job, quiet):
        store.add(one, b"x")
    assert store.due(1e6, lease=30) == ()
    store.finish(job.id, JobState.COMPLETED)
    store.finish(quiet.id, JobState.COMPLETED)
    assert [one.id for one in store.due(clock.now, lease=30)] == [job.id]
    assert another().due(clock.now + 29, lease=30) == ()
    assert len(store.due(clock.now + 30, lease=30)) == 1

    def failed_once(delivery: Delivery) -> Delivery:
        return replace(delivery, attempts=delivery.attempts + 1, status=500, next_at=5000.0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.deliver(job.id, failed_once), range(4)))
    assert store.get(job.id).delivery.attempts == 4
    assert store.due(4999.0, lease=30) == () and len(store.due(5000.0, lease=30)) == 1
    store.deliver(job.id, lambda delivery: replace(delivery, state="delivered", next_at=None, delivered_at=5001.0))
    assert store.due(1e9, lease=30) == ()


def test_old_jobs_are_forgotten_and_unfinished_ones_are_not(store: JobStore, clock: Clock) -> None:
    old, young, unfinished = a_job(), a_job(), a_job()
    for job in (old, young, unfinished):
        store.add(job, b"x")
    store.finish(old.id, JobState.COMPLETED)
    clock.now += 30.0
    store.finish(young.id, JobState.COMPLETED)
    clock.now += 31.0
    store.expire(clock.now)
    assert {job.id for job in store.listed(limit=10)} == {young.id, unfinished.id}
    with pytest.raises(JobNotFound):
        store.get(old.id)


def test_a_record_stays_as_long_as_whoever_took_the_job_said(redis_server: RedisServer) -> None:  # noqa: F811
    """Not as long as those say who end it, or clear up."""
    server, worker = RedisStore(redis_server.url, ttl=7200.0), RedisStore(redis_server.url, ttl=60.0)
    server.add(job := a_job(), b"x")
    worker.finish(job.id, JobState.COMPLETED)
    worker.expire(time.time() + 7000.0)
    assert worker.get(job.id).state is JobState.COMPLETED
    assert server.client.ttl(f"{PREFIX}job:{job.id}") > 86400 + 7000
    worker.expire(time.time() + 7201.0)
    with pytest.raises(JobNotFound):
        worker.get(job.id)
    for store in (server, worker):
        store.close()


def test_a_job_whose_webhook_waits_is_not_forgotten(store: JobStore, clock: Clock) -> None:
    job = a_job(webhook_url="http://example.org/hook")
    store.add(job, b"x")
    store.finish(job.id, JobState.COMPLETED)
    clock.now += 100.0
    store.expire(clock.now)
    assert store.get(job.id).delivery.state == "waiting"
    store.deliver(job.id, lambda delivery: replace(delivery, state="failed"))
    store.expire(clock.now)
    with pytest.raises(JobNotFound):
        store.get(job.id)


def test_deleting_forgets_everything(store: JobStore) -> None:
    job = a_job(webhook_url="http://example.org/hook")
    store.add(job, b"x")
    store.put_page(job.id, a_page())
    store.delete(job.id)
    assert store.listed(limit=10) == () and store.due(1e9, lease=1) == ()
    with pytest.raises(JobNotFound):
        store.pages(job.id)


def test_the_current_model_is_shared(store: JobStore, another: Open) -> None:
    assert store.current_model() is None
    store.set_current_model("builtin")
    assert another().current_model() == "builtin"
    assert store.ping()


def test_redis_holds_nothing_of_a_deleted_job_and_ended_ones_go_by_themselves(redis_server: RedisServer) -> None:  # noqa: F811
    store, client = RedisStore(redis_server.url, ttl=60.0), connect(redis_server.url)
    gone, ended = a_job(webhook_url="http://example.org/hook"), a_job()
    for job in (gone, ended):
        store.add(job, b"x")
        store.put_page(job.id, a_page())
    store.delete(gone.id)
    store.finish(ended.id, JobState.COMPLETED)
    names = {name.decode() for name in client.keys("*")}
    assert all(name.startswith(PREFIX) for name in names)
    assert not any(gone.id in name for name in names)
    assert {name.rpartition(":")[2] for name in names if ended.id in name} == {ended.id, "pages", "read"}
    assert all(client.ttl(name) > 0 for name in names if ended.id in name)
    assert b"hunter2" not in client.hget(f"{PREFIX}job:{ended.id}", "record")
    for one in (store, client):
        one.close()


def test_a_redis_that_is_nearly_full_takes_no_new_job_and_goes_on_with_the_others(redis_server: RedisServer) -> None:  # noqa: F811
    store, client = RedisStore(redis_server.url), connect(redis_server.url)
    job = a_job()
    store.add(job, b"x")
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 400_000)
    with pytest.raises(QueueFull, match="nearly full"):
        store.add(a_job(), b"x" * 500_000)
    assert store.put_page(job.id, a_page())
    client.config_set("maxmemory", 1)
    with pytest.raises(JobsUnavailable, match="is full"):
        store.put_page(job.id, a_page(1))
    for one in (store, client):
        one.close()


def test_a_redis_that_throws_away_what_it_has_no_room_for_is_told_of_once(
    redis_server: RedisServer,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, client = RedisStore(redis_server.url), connect(redis_server.url)
    client.config_set("maxmemory-policy", "allkeys-lru")
    store.add(a_job(), b"x")
    assert "throws" not in caplog.text, "it has room without an end"
    client.config_set("maxmemory", "1gb")
    for _ in range(2):
        store.add(a_job(), b"x")
    assert caplog.text.count("maxmemory-policy allkeys-lru") == 1
    for one in (store, client):
        one.close()


def test_a_redis_that_is_gone_is_said_in_time_and_without_its_password() -> None:
    store = RedisStore("redis://:hunter2@127.0.0.1:1/0")
    began = time.monotonic()
    with pytest.raises(JobsUnavailable) as caught:
        store.get(UNKNOWN)
    assert not store.ping()
    assert time.monotonic() - began < 2.0
    assert "cannot be reached" in str(caught.value)
    assert "hunter2" not in str(caught.value) and "127.0.0.1" not in str(caught.value)
    assert caught.value.__cause__ is None
    store.close()


def test_a_redis_that_does_not_answer_is_given_up(redis_server: RedisServer) -> None:  # noqa: F811
    store = RedisStore(redis_server.url)
    assert store.ping()
    redis_server.freeze()
    began = time.monotonic()
    assert not store.ping()
    assert time.monotonic() - began < 2.0
    store.close()


def test_a_command_without_an_answer_is_not_sent_twice(redis_server: RedisServer) -> None:  # noqa: F811
    """It may have been done; and who asks waits for one answer's time, not for two."""
    client = connect(redis_server.url, answer=0.4)
    client.ping()
    redis_server.freeze()
    began = time.monotonic()
    with pytest.raises(redis.ConnectionError):
        client.get("anything")
    assert time.monotonic() - began < 0.75
    client.close()


def test_no_answer_in_time_is_told_as_one_that_cannot_be_reached() -> None:
    """Pipelines raise it as it is; a refused command would send the operator to the wrong place."""
    with pytest.raises(JobsUnavailable, match="cannot be reached"), reached():
        raise redis.TimeoutError


@pytest.mark.slow
def test_a_silent_redis_does_not_hold_those_who_ask_again(redis_server: RedisServer) -> None:  # noqa: F811
    """One call waits for an answer; after it callers fail at once, so that they do not take all threads of a server."""
    store = RedisStore(redis_server.url)
    store.current_model()
    redis_server.freeze()
    with pytest.raises(JobsUnavailable):
        store.get(UNKNOWN)
    end = time.monotonic() + 3.0
    slow = 0
    while time.monotonic() < end:
        began = time.monotonic()
        with pytest.raises(JobsUnavailable, match="cannot be reached"):
            store.current_model()
        slow += time.monotonic() - began > 0.1
        assert time.monotonic() - began < 1.5
        time.sleep(0.01)
    assert slow <= 2, "one at a time looks whether it is back"
    redis_server.thaw()

    def is_back() -> bool:
        try:
            return store.current_model() is None
        except JobsUnavailable:
            return False

    eventually(is_back, 4)
    store.close()


@pytest.mark.parametrize("who", ["", ":wrong-secret@", "nobody:wrong-secret@", "limited:limited-secret@"])
def test_a_wrong_user_or_password_is_told_as_such(redis_server: RedisServer, who: str) -> None:  # noqa: F811
    with redis.Redis(port=redis_server.port) as admin:
        admin.acl_setuser("limited", enabled=True, passwords=["+limited-secret"], commands=["+get"], keys=["*"])
        admin.config_set("requirepass", "right-secret")
    store = RedisStore(redis_server.url.replace("//", "//" + who))
    for ask in (store.answers, lambda: store.get(UNKNOWN)):
        with pytest.raises(RedisRefuses) as caught:
            ask()
        assert str(caught.value) == "Redis refuses the user or password in OCR_MLX_REDIS_URL."
    assert not store.ping()
    assert store.address == f"127.0.0.1:{redis_server.port}"
    store.close()
