"""Jobs in a folder on this machine: SQLite for the records, a file per document. Several processes may share it.

A job that is read has an owner (`owners.py`); what a dead owner leaves behind is free for the next one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from ocr_mlx.domain import PageError, PageResult
from ocr_mlx.errors import EngineError, ShuttingDown, SourceNotFound
from ocr_mlx.jobs.local.database import DAMAGED, NAME, empty_log, told
from ocr_mlx.jobs.local.files import Files
from ocr_mlx.jobs.local.owners import bury, bury_all
from ocr_mlx.jobs.local.tables import COLUMNS, NEXT_TURN, OPEN, check_room, find, forget, from_row, insert, json, one
from ocr_mlx.jobs.records import DELIVERY, ERROR, PAGE, Delivery, Job, JobState, unknown

SUSPECT: Final = 2
"""A job that was being read when so many processes died, with no page stored, is read with nothing beside it."""
_PING_SECONDS = 2.0
_DAMAGED_KEPT = 7 * 86400.0
_CURRENT_MODEL = "current_model"


class SqliteStore:
    """A JobStore, and the claims that processes on this machine have on its jobs.

    Nothing is made before there is something to keep. Raises JobsUnavailable where the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ttl: float = 3600.0,
        most_waiting: int = 1000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ttl` seconds that a record outlives its job; `most_waiting` pending jobs; `clock` tells Unix seconds."""
        self._folder = folder
        self._ttl = ttl
        self._most_waiting = most_waiting
        self._clock = clock
        self._lock = threading.RLock()
        self._files: Files | None = None
        self._closed = False
        self._excused = False
        self._begun: set[str] = set()
        """Claimed jobs whose decoding `decoding` has counted."""

    # --- what every store does

    def add(self, job: Job, data: bytes) -> None:
        """See JobStore."""
        with self._using(create=True) as files:
            check_room(files.db, self._most_waiting)
        try:
            with told():
                files.documents.put(job.id, data)
            with self._changing() as files:
                check_room(files.db, self._most_waiting)
                files.documents.keep(job.id)
                insert(files.db, job)
        except BaseException:
            with contextlib.suppress(OSError):
                files.documents.drop(job.id)
            raise

    def get(self, job_id: str) -> Job:
        """See JobStore."""
        with self._using() as files:
            return find(files.db, job_id)

    def listed(self, *, limit: int, state: JobState | None = None) -> tuple[Job, ...]:
        """See JobStore."""
        if not self._is_there():
            return ()
        only, values = ("", ()) if state is None else ("WHERE state = ?", (str(state),))
        order = "ORDER BY created DESC, rowid DESC LIMIT ?"
        with self._using() as files:
            rows = files.db.execute(f"SELECT {COLUMNS} FROM jobs {only} {order}", (*values, limit))  # noqa: S608
            return tuple(from_row(row) for row in rows)

    def document(self, job_id: str) -> bytes:
        """See JobStore. Raises SourceNotFound where somebody removed it."""
        with self._using() as files:
            job = find(files.db, job_id)
            try:
                return files.documents.get(job_id)
            except FileNotFoundError:
                if job.state.final:
                    raise unknown() from None
                raise SourceNotFound("The document of this job is gone from the disk.", hint="Send it again.") from None

    def pages(self, job_id: str) -> tuple[PageResult, ...]:
        """See JobStore."""
        with self._using() as files:
            order = {index: place for place, index in enumerate(find(files.db, job_id).pages)}
            rows = files.db.execute("SELECT record FROM pages WHERE job_id = ? AND record IS NOT NULL", (job_id,))
            found = [PAGE.validate_json(record) for (record,) in rows]
        return tuple(sorted(found, key=lambda page: order.get(page.index, page.index)))

    def begin(self, job_id: str) -> Job:
        """See JobStore."""
        now = self._clock()
        with self._changing() as files:
            files.db.execute(
                "UPDATE jobs SET state = ?, started = ?, updated = ? WHERE id = ? AND state = ?",
                (str(JobState.PROCESSING), now, now, job_id, str(JobState.PENDING)),
            )
            return find(files.db, job_id)

    def put_page(self, job_id: str, page: PageResult) -> bool:
        """See JobStore. Nothing is stored either when another process has the job by now."""
        now = self._clock()
        with self._changing() as files:
            db = files.db
            mine = f"SELECT 1 FROM jobs WHERE id = ? AND {OPEN} AND coalesce(owner, ?) = ?"  # noqa: S608
            taken = "SELECT 1 FROM pages WHERE job_id = ? AND page_index = ?"
            if not one(db, mine, job_id, files.owner, files.owner) or one(db, taken, job_id, page.index):
                return False
            records = [(page.index, PAGE.dump_json(page).decode()), *((index, None) for index in page.following)]
            db.executemany(
                "INSERT OR IGNORE INTO pages (job_id, page_index, record, stored, owner) VALUES (?, ?, ?, ?, ?)",
                [(job_id, index, record, now, files.owner) for index, record in records],
            )
            db.execute(
                "UPDATE jobs SET done = (SELECT count(*) FROM pages WHERE job_id = id), attempts = 0, updated = ? "
                "WHERE id = ?",
                (now, job_id),
            )
            return True

    def finish(self, job_id: str, state: JobState, error: PageError | None = None) -> bool:
        """See JobStore. The document's password goes too."""
        now = self._clock()
        with self._changing() as files:
            job = find(files.db, job_id)
            if job.state.final:
                return False
            files.db.execute(
                "UPDATE jobs SET state = ?, error = ?, finished = ?, updated = ?, deliver_at = ?, record = ?, owner = NULL "
                "WHERE id = ?",
                (
                    str(state),
                    None if error is None else ERROR.dump_json(error).decode(),
                    now,
                    now,
                    now if job.delivery.state == "waiting" else None,
                    json(replace(job, request=replace(job.request, password=None))),
                    job_id,
                ),
            )
        self._clear(job_id)
        return True

    def delete(self, job_id: str) -> None:
        """See JobStore."""
        with self._changing() as files:
            find(files.db, job_id)
            files.db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        self._clear(job_id)

    def deliver(self, job_id: str, change: Callable[[Delivery], Delivery]) -> Job:
        """See JobStore."""
        with self._changing() as files:
            job = find(files.db, job_id)
            delivery = change(job.delivery)
            waits = delivery.state == "waiting" and job.state.final
            at = (delivery.next_at or self._clock()) if waits else None
            files.db.execute(
                "UPDATE jobs SET delivery = ?, deliver_at = ? WHERE id = ?",
                (DELIVERY.dump_json(delivery).decode(), at, job_id),
            )
            return find(files.db, job_id)

    def due(self, now: float, *, lease: float) -> tuple[Job, ...]:
        """See JobStore."""
        is_due = "FROM jobs WHERE deliver_at <= ?"
        if not self._any(f"SELECT 1 {is_due}", now):
            return ()
        with self._changing() as files:
            rows = files.db.execute(f"SELECT {COLUMNS} {is_due} ORDER BY deliver_at", (now,)).fetchall()
            files.db.execute("UPDATE jobs SET deliver_at = ? WHERE deliver_at <= ?", (now + lease, now))
        return tuple(from_row(row) for row in rows)

    def expire(self, now: float) -> None:
        """See JobStore. A job whose webhook still waits stays. Also ends the time of a damaged database."""
        if not self._is_there():
            return
        with self._changing() as files:
            forget(files.db, now, self._ttl)
            wanted = files.db.execute(f"SELECT id FROM jobs WHERE {OPEN}").fetchall()  # noqa: S608
            files.documents.sweep({job_id for (job_id,) in wanted})
            damaged = self._folder / DAMAGED
            if damaged.exists() and damaged.stat().st_mtime < now - _DAMAGED_KEPT:
                damaged.unlink()
        with self._using() as files:
            empty_log(files.db)

    def current_model(self) -> str | None:
        """See Jobs."""
        if not self._is_there():
            return None
        with self._using() as files:
            found = one(files.db, "SELECT value FROM choices WHERE name = ?", _CURRENT_MODEL)
            return None if found is None else str(found)

    def set_current_model(self, name: str) -> None:
        """See Jobs."""
        with self._changing(create=True) as files:
            files.db.execute("INSERT OR REPLACE INTO choices (name, value) VALUES (?, ?)", (_CURRENT_MODEL, name))

    def ping(self) -> bool:
        """See JobStore."""
        if not self._lock.acquire(timeout=_PING_SECONDS):
            return False
        try:
            return not self._closed and (self._any("SELECT 1") if self._is_there() else self._can_begin())
        except EngineError:
            return False
        finally:
            self._lock.release()

    def close(self) -> None:
        """Let go of this process's jobs, and of the files."""
        with self._lock:
            self._closed = True
            files, self._files = self._files, None
            if files is None:
                return
            with contextlib.suppress(sqlite3.Error):
                files.db.execute("UPDATE jobs SET owner = NULL WHERE owner = ?", (files.owner,))
            files.close()

    # --- claims

    def is_waiting(self) -> bool:
        """Whether a job waits that nobody has."""
        return self._any(f"SELECT 1 FROM jobs WHERE owner IS NULL AND {OPEN}")  # noqa: S608

    def is_claimable(self, busy: Collection[str]) -> bool:
        """Whether a job waits that `claim` could give, suspects aside."""
        if not self._is_there():
            return False
        with self._using() as files:
            return one(files.db, f"SELECT 1 {_free(busy)}", *busy, files.owner, files.owner) is not None

    def claim(self, busy: Collection[str]) -> Job | None:
        """The job whose turn it is; it is this process's until it is final or released. None when there is none to take.

        `busy` are the jobs that this process is reading; one that it claimed and does not read any more is free again.
        A suspect runs alone: it waits until the others are done, and the others wait for it.
        """
        with self._changing() as files:
            db, names = files.db, tuple(busy)
            marks = ", ".join("?" * len(names))
            beside = db.execute(f"SELECT id, attempts FROM jobs WHERE id IN ({marks})", names)  # noqa: S608
            if any(attempts - (job_id in self._begun) >= SUSPECT for job_id, attempts in beside):
                return None
            query = f"SELECT id, attempts {_free(names)} ORDER BY turn LIMIT 1"
            row = db.execute(query, (*names, files.owner, files.owner)).fetchone()
            if row is None or (row[1] >= SUSPECT and names):
                return None
            alive = int(row[0] in self._begun)  # its last claim was dropped, which is no death
            query = "UPDATE jobs SET owner = ?, attempts = max(attempts - ?, 0) WHERE id = ?"
            db.execute(query, (files.owner, alive, row[0]))
            self._begun.discard(row[0])
            return find(db, row[0])

    def decoding(self, job_id: str) -> None:
        """A page of a claimed job begins to be decoded: should this process die from now on, that counts as an attempt."""
        with self._changing() as files:
            query = "UPDATE jobs SET attempts = attempts + 1 WHERE id = ? AND owner = ?"
            if not self._excused and files.db.execute(query, (job_id, files.owner)).rowcount:
                self._begun.add(job_id)

    def has_read(self, job_id: str) -> bool:
        """Whether this process has stored a page of the job."""
        with self._using() as files:
            query = "SELECT 1 FROM pages WHERE job_id = ? AND owner = ?"
            return one(files.db, query, job_id, files.owner) is not None

    def missing(self, job_id: str) -> tuple[int, ...]:
        """The pages that have no result yet, in the order asked for."""
        with self._using() as files:
            job = find(files.db, job_id)
            rows = files.db.execute("SELECT page_index FROM pages WHERE job_id = ?", (job_id,))
            stored = {index for (index,) in rows}
        return tuple(index for index in job.pages if index not in stored)

    def release(self, job_id: str, *, to_the_back: bool) -> None:
        """Give a claimed job back, in its old place or behind the others. That is no attempt."""
        turn = NEXT_TURN if to_the_back else "turn"
        with self._changing() as files:
            files.db.execute(
                f"UPDATE jobs SET owner = NULL, attempts = max(attempts - ?, 0), turn = {turn} "  # noqa: S608
                "WHERE id = ? AND owner = ?",
                (int(job_id in self._begun), job_id, files.owner),
            )
            self._begun.discard(job_id)

    def excuse(self) -> None:
        """The claims of this process do not count as attempts: it ends because it was told to."""
        if self._files is None or self._excused:
            return
        with self._changing() as files:
            query = "UPDATE jobs SET attempts = max(attempts - 1, 0) WHERE id = ? AND owner = ?"
            files.db.executemany(query, [(job_id, files.owner) for job_id in self._begun])
            self._begun.clear()
            self._excused = True

    def reclaim(self) -> int:
        """Free the jobs of owners that are dead; how many that were."""
        if not self._is_there():
            return 0
        with self._using() as files:
            query = "SELECT DISTINCT owner FROM jobs WHERE owner IS NOT NULL AND owner != ?"
            others = [owner for (owner,) in files.db.execute(query, (files.owner,))]
        dead = [owner for owner in others if bury(self._folder, owner)]
        if not dead:
            return 0
        marks = ", ".join("?" * len(dead))
        with self._changing() as files:
            return files.db.execute(f"UPDATE jobs SET owner = NULL WHERE owner IN ({marks})", dead).rowcount  # noqa: S608

    def finals(self, job_ids: Collection[str]) -> frozenset[str]:
        """Those of these jobs that are final, or gone."""
        if not self._is_there():
            return frozenset(job_ids)
        with self._using() as files:
            query = f"SELECT id FROM jobs WHERE {OPEN}"  # noqa: S608
            return frozenset(job_ids) - {job_id for (job_id,) in files.db.execute(query)}

    # --- access

    def _clear(self, job_id: str) -> None:
        """What is forgotten leaves the disk now; what cannot be removed now is swept later."""
        with self._using() as files:
            self._begun.discard(job_id)
            with contextlib.suppress(OSError):
                files.documents.drop(job_id)
            empty_log(files.db)

    def _is_there(self) -> bool:
        return (self._folder / NAME).exists()

    def _can_begin(self) -> bool:
        nearest = next(path for path in (self._folder, *self._folder.parents) if path.exists())
        return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)

    def _any(self, query: str, *values: object) -> bool:
        if not self._is_there():
            return False
        with self._using() as files:
            return one(files.db, query, *values) is not None

    @contextmanager
    def _using(self, *, create: bool = False) -> Iterator[Files]:
        """The open files, one thread at a time. JobNotFound where nothing was ever kept and nothing is to be made."""
        with self._lock, told():
            if self._closed:
                raise ShuttingDown("The server is shutting down.", hint="Start it again and repeat the request.")
            if self._files is not None and self._files.lost():
                self._files.close()
                self._files = None
            if self._files is None:
                if not create and not self._is_there():
                    raise unknown()
                self._files = Files(self._folder)
                bury_all(self._folder)
            yield self._files

    @contextmanager
    def _changing(self, *, create: bool = False) -> Iterator[Files]:
        """The open files in a transaction that nobody else writes beside."""
        with self._using(create=create) as files:
            files.db.execute("BEGIN IMMEDIATE")
            try:
                yield files
                files.db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # it may be over already
                    files.db.execute("ROLLBACK")
                raise


def _free(busy: Collection[str]) -> str:
    """The open jobs beside `busy` that nobody has, or that this process has without reading them; then twice its name."""
    return f"FROM jobs WHERE {OPEN} AND id NOT IN ({', '.join('?' * len(busy))}) AND coalesce(owner, ?) = ?"
