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


def check_room(db: sqlite3.Connection, most: int) -> None:
    """Raise QueueFull when so many jobs are pending."""
    waiting = one(db, "SELECT count(*) FROM jobs WHERE state = ?", str(JobState.PENDING))
    if waiting >= most:
        raise QueueFull(f"{waiting} jobs are waiting already.", hint="Try again later.")
