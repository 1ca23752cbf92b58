"""A process that is killed between any two things that it does to the disk leaves jobs that the next one can end."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ocr_mlx.domain import OcrRequest, OcrResult, OnEvent, PageDone, PageStarted
from ocr_mlx.jobs.local.database import NAME
from ocr_mlx.jobs.local.files import Files
from ocr_mlx.jobs.local.runner import Runner, RunnerOptions
from ocr_mlx.jobs.local.store import SqliteStore
from ocr_mlx.jobs.records import Job, JobState
from tests.unit.jobs.made import a_job, a_page

PAGES = 3


class Killed(BaseException):
    """Nothing of the process happens after this: what it still tries to do fails as well."""


@dataclass
class Disk:
    """Counts what is done to the disk; from number `last` on it does nothing more."""

    last: int
    done: int = 0

    def count(self) -> None:
        self.done += 1
        if self.done > self.last:
            raise Killed

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **more: Any) -> Any:
            self.count()
            return call(*arguments, **more)

        return counting


class Statements:
    """A connection whose statements count."""

    def __init__(self, db: Any, disk: Disk) -> None:
        self._db = db
        self.execute = disk.counted(db.execute)
        self.executemany = disk.counted(db.executemany)
        self.close = db.close


class Reader:
    """Reads the pages of a request, and remembers which."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def inspect(self, request: OcrRequest) -> tuple[int, ...]:
        raise NotImplementedError

    def run(self, request: OcrRequest, on_event: OnEvent | None = None, cancel: Any = None) -> OcrResult:
        assert on_event is not None
        for number in request.page_range.split(","):
            index = int(number) - 1
            on_event(PageStarted(page=index))
            self.read.append(index)
            on_event(PageDone(result=a_page(index)))
        return OcrResult(model="fake", pages=(), seconds=0.0)


def runner(store: SqliteStore, reader: Reader) -> Runner:
    return Runner(store, lambda: reader, RunnerOptions(at_once=1, drain=0.0))


def lives_until(disk: Disk, folder: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> bool:
    """One process from the submission to the webhook's record; whether it came to its end."""
    store = SqliteStore(folder)
    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, disk.counted(getattr(owner, name)))
        made = Files.__init__

        def opened(self: Files, where: Path) -> None:
            made(self, where)
            self.db = Statements(self.db, disk)  # type: ignore[assignment]

        patch.setattr(Files, "__init__", opened)
        try:
            store.add(job, b"%PDF")
            while runner(store, Reader()).step():
                pass
            store.expire(time.time())
            return True
        except Killed:
            return False
        finally:
            if store._files is not None:  # what the kernel does: the lock and the transaction are gone
                store._files.db.close()
                os.close(store._files._owner._handle)


def goes_on(folder: Path) -> tuple[tuple[Job, ...], list[int]]:
    """The next process: the jobs when there is nothing left to do, and the pages it read."""
    reader = Reader()
    store = SqliteStore(folder)
    try:
        kept = {page.index for job in store.listed(limit=9) for page in store.pages(job.id)}
        again = runner(store, reader)
        again.look()
        while again.step():
            pass
        store.expire(time.time())
        jobs = store.listed(limit=9)
        assert not kept & set(reader.read), "a page that is stored is not read again"
        for job in jobs:
            assert [page.index for page in store.pages(job.id)] == list(range(PAGES))
        assert len(store.due(1e12, lease=1.0)) == len(jobs), "each job's webhook is still to be sent"
        return jobs, reader.read
    finally:
        store.close()


def test_a_kill_between_any_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = set()
    for number in itertools.count():
        folder = tmp_path / str(number)
        job = a_job(PAGES, webhook_url="https://example.org/")
        ended = lives_until(Disk(number), folder, job, monkeypatch)
        if not (folder / NAME).exists():
            continue
        jobs, read = goes_on(folder)
        assert [(one.id, one.state) for one in jobs] in ([], [(job.id, JobState.COMPLETED)])
        assert not list((folder / "documents").iterdir()), "no document is left"
        assert not list(folder.glob("owner-*")), "no lock is left"
        outcomes.add((len(jobs), tuple(read)))
        if ended:
            break
    everything = tuple(range(PAGES))
    assert outcomes == {(0, ())} | {(1, everything[first:]) for first in range(PAGES + 1)}
    assert number > 40
