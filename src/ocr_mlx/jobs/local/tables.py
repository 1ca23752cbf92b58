"""Jobs as rows: what a job's columns are, and the statements that more than one method needs."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import Any, Final

from ocr_mlx.errors import QueueFull
from ocr_mlx.jobs.records import DELIVERY, ERROR, JOB, Job, JobState, unknown

OPEN: Final = f"state IN ('{JobState.PENDING}', '{JobState.PROCESSING}')"
NEXT_TURN: Final = "(SELECT coalesce(max(turn), 0) + 1 FROM jobs)"
COLUMNS: Final = "record, state, attempts, done, updated, started, finished, error, delivery"
"""What `from_row` takes. `record` holds the job as it was added; the columns beside it are what changes."""
_ENDED_AHEAD = 60.0
"""Seconds; steps of a clock that is kept right are smaller."""
_DUE_AHEAD = 7200.0
"""Seconds; no attempt of a webhook is planned so far ahead."""


def from_row(row: tuple[Any, ...]) -> Job:
    """The job of a row of COLUMNS."""
    record, state, attempts, done, updated, started, finished, error, delivery = row
    return replace(
        JOB.validate_json(record),
        state=JobState(state),
        attempts=attempts,
        done=done,
        updated=updated,
        started=started,
        finished=finished,
        error=None if error is None else ERROR.validate_json(error),
        delivery=DELIVERY.validate_json(delivery),
    )


def find(db: sqlite3.Connection, job_id: str) -> Job:
    """The job. Raises JobNotFound."""
    row = db.execute(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()  # noqa: S608
    if row is None:
        raise unknown()
    return from_row(row)


def insert(db: sqlite3.Connection, job: Job) -> None:
    """A new job, last in turn."""
    names = "id, state, record, turn, created, updated, delivery"
    db.execute(
        f"INSERT INTO jobs ({names}) VALUES (?, ?, ?, {NEXT_TURN}, ?, ?, ?)",  # noqa: S608
        (job.id, str(job.state), json(job), job.created, job.updated, DELIVERY.dump_json(job.delivery).decode()),
    )


def json(job: Job) -> str:
    """The job's record."""
    return JOB.dump_json(job).decode()


def one(db: sqlite3.Connection, query: str, *values: object) -> Any:
    """The first column of the first row, None where there is none."""
    row = db.execute(query, values).fetchone()
    return None if row is None else row[0]


def forget(db: sqlite3.Connection, now: float, ttl: float) -> None:
    """Forget what ended `ttl` seconds ago, unless its webhook waits.

    Times that lie ahead were told by a clock that was set back since: what has them would stay, or wait, for as long.
    """
    db.execute("UPDATE jobs SET finished = ? WHERE finished > ?", (now, now + _ENDED_AHEAD))
    db.execute("UPDATE jobs SET deliver_at = ? WHERE deliver_at > ?", (now, now + _DUE_AHEAD))
    db.execute("DELETE FROM jobs WHERE finished <= ? AND deliver_at IS NULL", (now - ttl,))


def check_room(db: sqlite3.Connection, most: int) -> None:
    """Raise QueueFull when so many jobs are pending."""
    waiting = one(db, "SELECT count(*) FROM jobs WHERE state = ?", str(JobState.PENDING))
    if waiting >= most:
        raise QueueFull(f"{waiting} jobs are waiting already.", hint="Try again later.")
