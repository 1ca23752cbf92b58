"""The store on a real disk; a second store on the same folder is a second process to it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ocr_mlx.domain import PageError
from ocr_mlx.errors import JobNotFound, JobsUnavailable, QueueFull, ShuttingDown
from ocr_mlx.jobs.local.database import DAMAGED, NAME, VERSION
from ocr_mlx.jobs.local.store import SqliteStore
from ocr_mlx.jobs.records import Delivery, JobState
from tests.unit.jobs.made import a_job, a_page

Open = Callable[..., SqliteStore]


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "jobs"


@pytest.fixture
def another(folder: Path) -> Iterator[Open]:
    stores: list[SqliteStore] = []

    def make(**more: Any) -> SqliteStore:
        stores.append(SqliteStore(folder, **more))
        return stores[-1]

    yield make
    for one in stores:
        one.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(another: Open, clock: Clock) -> SqliteStore:
    return another(clock=clock, ttl=60.0)


def dies(store: SqliteStore) -> None:
    """What the kernel does to a process that is killed: its locks are gone, and nothing else was done."""
    assert store._files is not None
    os.close(store._files._owner._handle)
    store._files.db.close()
    store._files = None
    store._closed = True


def documents(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "documents").iterdir())


def test_nothing_is_made_before_there_is_something_to_keep(store: SqliteStore, folder: Path) -> None:
    assert store.listed(limit=5) == () and store.current_model() is None and store.ping()
    assert not store.is_waiting() and store.due(1e12, lease=1.0) == () and store.reclaim() == 0
    store.expire(1e12)
    with pytest.raises(JobNotFound, match=r"^Job not found$"):
        store.get("x")
    assert not folder.exists()


def test_what_is_added_comes_back_the_same(store: SqliteStore, another: Open) -> None:
    job = a_job(webhook_url="https://example.com/hook")
    store.add(job, b"%PDF")
    assert store.get(job.id) == job == another().get(job.id)
    assert store.document(job.id) == b"%PDF" == another().document(job.id)
    assert store.pages(job.id) == ()


def test_only_this_user_sees_the_files(store: SqliteStore, folder: Path) -> None:
    store.add(a_job(), b"secret")
    for path in (folder, folder / "documents"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_pages_are_kept_once_in_the_order_asked_for(store: SqliteStore, clock: Clock) -> None:
    job = replace(a_job(), pages=(4, 0, 2))
    store.add(job, b"x")
    clock.now += 1
    assert store.put_page(job.id, a_page(2)) and store.put_page(job.id, a_page(4))
    assert not store.put_page(job.id, a_page(2, "another"))
    assert [page.text for page in store.pages(job.id)] == ["page 4", "page 2"]
    assert store.missing(job.id) == (0,)
    assert (store.get(job.id).done, store.get(job.id).updated) == (2, clock.now)


def test_pages_of_one_prompt_count_as_done(store: SqliteStore) -> None:
    job = a_job(pages=5)
    store.add(job, b"x")
    assert store.put_page(job.id, a_page(0, following=(1, 2)))
    assert store.get(job.id).done == 3 and store.missing(job.id) == (3, 4)
    assert not store.put_page(job.id, a_page(1))
    assert len(store.pages(job.id)) == 1


def test_a_job_begins_and_ends_once(store: SqliteStore, clock: Clock, folder: Path) -> None:
    job = a_job()
    store.add(job, b"x")
    assert store.begin(job.id).started == 1000.0
    clock.now += 5
    assert store.begin(job.id).started == 1000.0
    assert store.begin(job.id).state is JobState.PROCESSING
    reason = PageError(code="timed_out", message="Too late.")
    assert store.finish(job.id, JobState.FAILED, reason)
    assert not store.finish(job.id, JobState.COMPLETED)
    ended = store.get(job.id)
    assert (ended.state, ended.error, ended.finished) == (JobState.FAILED, reason, 1005.0)
    assert store.begin(job.id).state is JobState.FAILED
    assert not store.put_page(job.id, a_page())


def test_document_and_password_go_with_the_end(store: SqliteStore, folder: Path) -> None:
    job = a_job()
    store.add(job, b"x")
    assert store.get(job.id).request.password == "hunter2"
    store.finish(job.id, JobState.COMPLETED)
    assert documents(folder) == [] and store.get(job.id).request.password is None
    with pytest.raises(JobNotFound):
        store.document(job.id)
    store.close()
    assert b"hunter2" not in (folder / NAME).read_bytes()


def test_deleted_is_forgotten(store: SqliteStore, folder: Path) -> None:
    job = a_job()
    store.add(job, b"x")
    store.put_page(job.id, a_page())
    store.delete(job.id)
    assert documents(folder) == [] and store.listed(limit=9) == ()
    for call in (store.get, store.pages, store.document, store.delete, store.begin, store.missing):
        with pytest.raises(JobNotFound):
            call(job.id)
    assert not store.put_page(job.id, a_page())
    store.close()
    assert b"page 0" not in (folder / NAME).read_bytes()


def test_what_was_deleted_or_secret_leaves_the_log_of_the_database_too(store: SqliteStore, folder: Path) -> None:
    store.add(gone := a_job(), b"x")
    store.put_page(gone.id, a_page(0, "the letter of Mr Smith"))
    assert "Mr Smith" in on_disk(folder)
    store.delete(gone.id)
    assert "Mr Smith" not in on_disk(folder)
    store.add(ended := a_job(), b"x")
    assert "hunter2" in on_disk(folder)
    store.finish(ended.id, JobState.COMPLETED)
    assert "hunter2" not in on_disk(folder)


def test_a_log_that_another_process_reads_is_emptied_later(store: SqliteStore, folder: Path) -> None:
    store.add(gone := a_job(), b"x")
    with closing(sqlite3.connect(folder / NAME)) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM jobs").fetchall()
        began = time.monotonic()
        store.delete(gone.id)
        assert time.monotonic() - began < 2.0
    assert store.listed(limit=9) == ()


def on_disk(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.glob(f"{NAME}*"))


def test_the_list_has_the_newest_first(store: SqliteStore) -> None:
    jobs = [replace(a_job(), created=float(n)) for n in range(4)]
    for job in jobs:
        store.add(job, b"x")
    store.finish(jobs[1].id, JobState.FAILED)
    assert [job.created for job in store.listed(limit=3)] == [3.0, 2.0, 1.0]
    assert [job.created for job in store.listed(limit=9, state=JobState.FAILED)] == [1.0]


def test_too_many_waiting_are_refused_and_leave_nothing(another: Open, folder: Path) -> None:
    store = another(most_waiting=1)
    store.add(first := a_job(), b"x")
    with pytest.raises(QueueFull, match="1 jobs are waiting"):
        store.add(a_job(), b"y")
    assert documents(folder) == [first.id]
    store.begin(first.id)
    store.add(a_job(), b"y")


def test_records_expire_and_waiting_webhooks_keep_theirs(store: SqliteStore, clock: Clock) -> None:
    done, told, open_ = a_job(), a_job(webhook_url="https://example.com"), a_job()
    for job in (done, told, open_):
        store.add(job, b"x")
    for job in (done, told):
        store.finish(job.id, JobState.COMPLETED)
    store.expire(clock.now + 59)
    assert len(store.listed(limit=9)) == 3
    store.expire(clock.now + 60)
    assert {job.id for job in store.listed(limit=9)} == {told.id, open_.id}
    store.deliver(told.id, lambda before: replace(before, state="delivered"))
    store.expire(clock.now + 60)
    assert [job.id for job in store.listed(limit=9)] == [open_.id]


def test_a_clock_that_is_set_back_keeps_nothing_for_good(store: SqliteStore, clock: Clock) -> None:
    done, told = a_job(), a_job(webhook_url="https://example.com")
    for job in (done, told):
        store.add(job, b"x")
    clock.now += 1e8
    for job in (done, told):
        store.finish(job.id, JobState.COMPLETED)
    clock.now -= 1e8
    assert store.due(clock.now, lease=10) == ()
    store.expire(clock.now)
    assert [job.id for job in store.due(clock.now, lease=10)] == [told.id]
    assert len(store.listed(limit=9)) == 2, "whoever waits for it has its time"
    store.expire(clock.now + 60)
    assert [job.id for job in store.listed(limit=9)] == [told.id]


def test_webhooks_are_due_once_and_again_after_their_lease(store: SqliteStore, another: Open, clock: Clock) -> None:
    job = a_job(webhook_url="https://example.com")
    store.add(job, b"x")
    store.add(quiet := a_job(), b"x")
    assert store.due(clock.now, lease=10) == ()
    store.finish(job.id, JobState.COMPLETED)
    store.finish(quiet.id, JobState.COMPLETED)
    assert [due.id for due in store.due(clock.now, lease=10)] == [job.id]
    assert another().due(clock.now + 9, lease=10) == ()
    assert [due.id for due in another().due(clock.now + 10, lease=10)] == [job.id]
    later = Delivery(state="waiting", attempts=1, next_at=clock.now + 100)
    assert store.deliver(job.id, lambda _before: later).delivery == later
    assert store.due(clock.now + 99, lease=10) == () and len(store.due(clock.now + 100, lease=10)) == 1
    store.deliver(job.id, lambda before: replace(before, state="failed"))
    assert store.due(clock.now + 999, lease=10) == ()


def test_the_chosen_model_is_remembered(store: SqliteStore, another: Open) -> None:
    store.set_current_model("got")
    store.set_current_model("qari")
    assert store.current_model() == "qari" == another().current_model()


def test_jobs_come_in_turn_and_to_one_process_only(store: SqliteStore, another: Open) -> None:
    first, second = a_job(), a_job()
    for job in (first, second):
        store.add(job, b"x")
    other = another()
    assert store.claim(()).id == first.id  # type: ignore[union-attr]
    assert other.claim(()).id == second.id  # type: ignore[union-attr]
    assert store.claim([first.id]) is None and other.claim([second.id]) is None and not store.is_waiting()
    assert not other.put_page(first.id, a_page()) and store.put_page(first.id, a_page())
    store.release(first.id, to_the_back=True)
    other.release(second.id, to_the_back=False)
    assert store.claim(()).id == second.id  # type: ignore[union-attr]


def test_many_at_once_never_claim_the_same(another: Open) -> None:
    stores = [another() for _ in range(4)]
    for _ in range(20):
        stores[0].add(a_job(), b"x")
    taken: list[list[str]] = [[] for _ in stores]

    def take(number: int) -> None:
        while (job := stores[number].claim(taken[number])) is not None:
            taken[number].append(job.id)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, range(4)))
    everything = [job_id for some in taken for job_id in some]
    assert len(everything) == 20 == len(set(everything))


def test_what_a_dead_process_held_is_free_and_what_a_living_one_holds_is_not(
    store: SqliteStore, another: Open, folder: Path
) -> None:
    store.add(job := a_job(), b"x")
    dead, living = another(), another()
    assert dead.claim(()) is not None
    dead.decoding(job.id)
    assert living.reclaim() == 0 and not living.is_waiting()
    dies(dead)
    assert living.reclaim() == 1
    again = living.claim(())
    assert again is not None and again.id == job.id and again.attempts == 1
    assert store.reclaim() == 0
    assert len(list(folder.glob("*.lock"))) == 2


def test_a_claim_that_was_dropped_is_taken_up_again(store: SqliteStore) -> None:
    store.add(job := a_job(), b"x")
    assert store.claim(()) is not None and store.claim([job.id]) is None
    store.decoding(job.id)
    again = store.claim(())
    assert again is not None and again.id == job.id and again.attempts == 0, "nobody died"


def test_attempts_count_deaths_since_the_last_page(store: SqliteStore, another: Open) -> None:
    store.add(job := a_job(), b"x")
    for number in range(3):
        dead = another()
        assert dead.claim(()).attempts == number  # type: ignore[union-attr]
        dead.decoding(job.id)
        dies(dead)
        store.reclaim()
    last = another()
    last.claim(())
    last.decoding(job.id)
    last.put_page(job.id, a_page())
    assert store.get(job.id).attempts == 0


def test_a_death_before_the_first_page_is_no_attempt(store: SqliteStore, another: Open) -> None:
    """A model that takes its process down while it loads, or a restart loop, says nothing of the job."""
    store.add(job := a_job(), b"x")
    for _ in range(6):
        dead = another()
        assert dead.claim(()).attempts == 0  # type: ignore[union-attr]
        dies(dead)
        store.reclaim()
    assert store.get(job.id).attempts == 0


def test_an_end_that_was_asked_for_is_no_attempt(store: SqliteStore, another: Open) -> None:
    store.add(job := a_job(), b"x")
    for _ in range(3):
        ended = another()
        assert ended.claim(()).attempts == 0  # type: ignore[union-attr]
        ended.decoding(job.id)
        assert store.get(job.id).attempts == 1
        ended.excuse()
        ended.excuse()
        ended.close()
        assert store.get(job.id).attempts == 0 and store.is_waiting()


def test_a_suspect_is_read_alone(store: SqliteStore, another: Open) -> None:
    store.add(suspect := a_job(), b"x")
    for _ in range(2):
        dead = another()
        dead.claim(())
        dead.decoding(suspect.id)
        dies(dead)
        store.reclaim()
    store.add(other := a_job(), b"x")
    store.add(third := a_job(), b"x")
    assert store.claim(["somebody"]) is None, "it waits for the others"
    assert store.claim(()).id == suspect.id  # type: ignore[union-attr]
    assert store.claim([suspect.id]) is None, "the others wait for it"
    store.decoding(suspect.id)
    assert store.claim([suspect.id]) is None, "and once it is being decoded"
    store.put_page(suspect.id, a_page())
    assert store.claim([suspect.id]).id == other.id  # type: ignore[union-attr]
    assert store.finals([suspect.id, third.id, "gone"]) == {"gone"}


def test_orphans_are_swept_and_others_are_not(store: SqliteStore, another: Open, folder: Path) -> None:
    store.add(job := a_job(), b"x")
    dead, living = another(), another()
    dead.add(a_job(), b"y")
    living.add(a_job(), b"y")
    nobody, foreign, begun = a_job().id, "somebody else's.pdf", a_job().id
    for name in (nobody, foreign):
        (folder / "documents" / name).write_bytes(b"z")
    (folder / "another.lock").touch()
    dead._files.documents.put(begun, b"z")  # type: ignore[union-attr]
    living._files.documents.put(begun, b"z")  # type: ignore[union-attr]
    dies(dead)
    store.expire(0.0)
    left = documents(folder)
    assert len(left) == 5 and {job.id, foreign} <= set(left) and nobody not in left
    assert len([name for name in left if name.startswith(begun)]) == 1
    assert (folder / "another.lock").exists()


def test_a_disk_that_refuses_leaves_no_job(store: SqliteStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(job := a_job(), b"x")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device", "/secret/place")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JobsUnavailable) as caught:
        store.add(a_job(), b"y")
    assert "secret" not in str(caught.value) and "OCR_MLX_JOBS_DIR" in str(caught.value)
    assert documents(folder) == [job.id] and len(store.listed(limit=9)) == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SqliteStore(tmp_path / "file" / "jobs")
    with pytest.raises(JobsUnavailable, match="cannot be kept"):
        store.add(a_job(), b"x")
    assert not store.ping()
    store.close()


def test_a_later_version_is_left_alone(store: SqliteStore, another: Open, folder: Path) -> None:
    store.add(a_job(), b"x")
    store.close()
    with sqlite3.connect(folder / NAME) as db:
        db.execute(f"PRAGMA user_version={VERSION + 1}")
    db.close()
    late = another()
    with pytest.raises(JobsUnavailable, match="later version"):
        late.listed(limit=1)
    assert not late.ping() and not (folder / DAMAGED).exists()


@pytest.mark.parametrize("damage", ["rubbish", "header", "middle"])
def test_a_damaged_database_is_moved_aside(
    store: SqliteStore, another: Open, folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        store.add(a_job(pages=200), b"x")
    store.close()
    path = folder / NAME
    data = bytearray(path.read_bytes())
    if damage == "rubbish":
        data = bytearray(b"no database" * 1000)
    elif damage == "header":
        data[:64] = bytes(64)
    else:
        data[4096:12288] = b"\xff" * 8192
    path.write_bytes(data)
    fresh = another()
    assert fresh.listed(limit=9) == () and fresh.ping()
    fresh.add(job := a_job(), b"y")
    assert (folder / DAMAGED).exists() and "damaged" in caplog.text and str(folder) not in caplog.text
    fresh.expire(0.0)
    assert documents(folder) == [job.id]
    fresh.expire(2e9 * 2)
    assert not (folder / DAMAGED).exists()


def test_a_closed_store_says_so(store: SqliteStore) -> None:
    store.add(job := a_job(), b"x")
    store.close()
    with pytest.raises(ShuttingDown):
        store.get(job.id)
    assert not store.ping()


def test_threads_share_it(store: SqliteStore) -> None:
    store.add(job := a_job(pages=40), b"x")
    stored: list[bool] = []
    start = threading.Barrier(4)

    def put(_thread: int) -> None:
        start.wait()
        stored.extend(store.put_page(job.id, a_page(index)) for index in range(40))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))
    assert sum(stored) == 40 == store.get(job.id).done


def test_a_folder_that_somebody_removes_is_begun_anew(
    store: SqliteStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.add(lost := a_job(), b"x")
    assert store.claim(()) is not None
    shutil.rmtree(folder)
    assert store.listed(limit=9) == () and store.finals([lost.id]) == {lost.id}
    with pytest.raises(JobNotFound):
        store.put_page(lost.id, a_page())
    store.add(job := a_job(), b"y")
    assert [one.id for one in store.listed(limit=9)] == [job.id] and store.claim(()).id == job.id  # type: ignore[union-attr]
    assert caplog.text.count("removed while it was in use") == 1


def test_a_folder_of_documents_that_is_cleared_away_is_made_again(store: SqliteStore, folder: Path) -> None:
    store.set_current_model("got")
    (folder / "documents").rmdir()
    store.add(job := a_job(), b"x")
    assert store.document(job.id) == b"x"


def test_what_the_system_says_is_in_the_log_and_no_path(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device", "/secret/place")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JobsUnavailable):
        store.add(a_job(), b"y")
    assert "jobs cannot be kept: No space left on device" in caplog.text and "secret" not in caplog.text
