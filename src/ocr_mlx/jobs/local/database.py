"""The database file of the jobs: opening it, its tables, and what happens to a damaged one."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ocr_mlx.errors import JobsUnavailable
from ocr_mlx.jobs.local.owners import alone, bury_all
from ocr_mlx.utils.logs import where

log = logging.getLogger(__name__)

NAME = "jobs.sqlite"
DAMAGED = "damaged-jobs.sqlite"
VERSION = 1
_BUSY_SECONDS = 30.0
_TABLES = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    record TEXT NOT NULL,
    turn INTEGER NOT NULL,
    owner TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    updated REAL NOT NULL,
    started REAL,
    finished REAL,
    error TEXT,
    delivery TEXT NOT NULL,
    deliver_at REAL
);
CREATE INDEX jobs_by_turn ON jobs (state, turn);
CREATE INDEX jobs_by_delivery ON jobs (deliver_at) WHERE deliver_at IS NOT NULL;
CREATE TABLE pages (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    page_index INTEGER NOT NULL,
    record TEXT,
    stored REAL NOT NULL,
    owner TEXT NOT NULL,
    PRIMARY KEY (job_id, page_index)
);
CREATE TABLE choices (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
"""`record` of a page is NULL where the page was read in the prompt of an earlier one; `owner` is who stored it."""


def open_database(folder: Path) -> sqlite3.Connection:
    """The connection, in a folder that exists. A damaged file is moved aside and a new one begun.

    Raises JobsUnavailable for a file of a later version, OSError and sqlite3.Error when it cannot be used.
    """
    path = folder / NAME
    with alone(folder / "opening"):
        try:
            return _open(path)
        except sqlite3.DatabaseError as problem:
            if not _is_damage(problem):
                raise
            if bury_all(folder):  # another server works with it: moving it away would take its jobs
                raise
            _move_aside(path)
            return _open(path)


def _open(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA foreign_keys=ON")
    db.execute("PRAGMA secure_delete=ON")  # what a job read is gone from the file with the job
    if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("malformed")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise JobsUnavailable(
            "The jobs were kept by a later version of ocr_mlx.",
            hint="Update ocr_mlx, or give it another folder with OCR_MLX_JOBS_DIR.",
        )
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version={VERSION}; COMMIT;")


def empty_log(db: sqlite3.Connection) -> None:
    """What was forgotten is gone from SQLite's log too; where another process uses it now, the next time."""
    db.execute("PRAGMA busy_timeout=0")
    try:
        with contextlib.suppress(sqlite3.OperationalError):
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        db.execute(f"PRAGMA busy_timeout={int(_BUSY_SECONDS * 1000)}")


def _is_damage(problem: sqlite3.DatabaseError) -> bool:
    code = getattr(problem, "sqlite_errorcode", None)
    return code is None or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _move_aside(path: Path) -> None:
    log.error(
        "the database of the jobs is damaged: it was moved to %s beside it, and a new one is begun; "
        "the jobs in it are lost",
        DAMAGED,
    )
    path.replace(path.with_name(DAMAGED))
    for ending in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).unlink()


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong with the disk, in words that say nothing of this machine."""
    try:
        yield
    except (sqlite3.Error, OSError) as problem:
        log.error("jobs cannot be kept: %s, %s", _reason(problem), where(problem))
        raise JobsUnavailable(
            "Jobs cannot be kept here now.",
            hint="The folder of the jobs (OCR_MLX_JOBS_DIR) must be writable and have room.",
        ) from problem


def _reason(problem: sqlite3.Error | OSError) -> str:
    """What the system says, without the path that it says it of."""
    if isinstance(problem, OSError):
        return problem.strerror or "no reason given"
    return getattr(problem, "sqlite_errorname", None) or "no reason given"
