"""Who reads what: a job is cut into units, one page each unless the model reads several in one prompt.

A unit is read by whoever claims it, and a claim holds for some seconds unless it is renewed: what a dead worker had is
free again soon. The hash `job:ID:units` keeps for unit N `claim:N` (until when, and whose), `tries:N` (how often somebody
began), `reads:N` (until when it counts as being decoded), `sent:N` and `sends:N` (its last message in the queue, and how
many there were), `rest:N` (not before that time).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ocr_mlx.jobs.records import Job
from ocr_mlx.jobs.redis.store import RedisStore, index, keys

CLAIM_SECONDS: Final = 10.0
"""How long a claim holds; renewed several times within that."""
UNKNOWN_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 10.0
QUEUED_SECONDS: Final = 60.0
"""After how long a unit that nobody reads is sent again: its message is gone; is not, but the queue is empty; waits in the
queue behind others. Each time doubles it. A message too many costs nothing."""
_MOST_DOUBLINGS = 8
_WORKER_SECONDS = 15.0
LONGEST_REST: Final = 30.0
"""Seconds between two tries of a unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Some pages (indices) of a job that are read in one go."""

    job_id: str
    number: int
    pages: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """The right to read a unit: `missing` are its pages that have no result; `tries` counts this one too."""

    unit: Unit
    owner: str
    missing: tuple[int, ...]
    tries: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """Where a job stands: the units to send again, whether it is being decoded, and for how many seconds it was."""

    job: Job
    lost: tuple[Unit, ...]
    is_read: bool
    worked: float


def units_of(job: Job, together: int) -> tuple[Unit, ...]:
    """The job's units, in reading order."""
    cuts = range(0, job.total, together)
    return tuple(
        Unit(job_id=job.id, number=number, pages=job.pages[cut : cut + together]) for number, cut in enumerate(cuts)
    )


class Units:
    """Claims on units. Thread-safe; every method may raise JobsUnavailable."""

    def __init__(self, store: RedisStore, *, queue: str, claim_seconds: float = CLAIM_SECONDS) -> None:
        """`queue` is the key of the list of messages."""
        self._store = store
        self._queue = queue
        self._milliseconds = int(claim_seconds * 1000)

    def find(self, job_id: str, number: int) -> tuple[Job, Unit]:
        """The job, and its unit of that number. Raises JobNotFound."""
        job, together = self._store.details(job_id)
        return job, units_of(job, together)[number]

    def cut(self, job_id: str) -> tuple[Unit, ...]:
        """All units of the job. Raises JobNotFound."""
        return units_of(*self._store.details(job_id))

    def claim(self, unit: Unit, owner: str) -> Claim | Literal["final", "done", "taken"]:
        """Take the unit, or say why not: the job is over, all pages have results, somebody reads it. Raises JobNotFound."""
        job, _, read, units, _ = keys(unit.job_id)
        arguments = (unit.number, owner, self._milliseconds, time.time(), *unit.pages)
        match self._store.run("claim", (job, units, read), *arguments):
            case [b"yours", tries, missing]:
                return Claim(unit=unit, owner=owner, missing=tuple(int(page) for page in missing), tries=tries)
            case [b"final"]:
                return "final"
            case [b"done"]:
                return "done"
            case _:
                return "taken"

    def renew(self, claim: Claim, *, decoding: bool = True) -> bool:
        """Keep the unit; False when somebody else has it, or the job is over. Raises JobNotFound."""
        arguments = (claim.unit.number, claim.owner, self._milliseconds, int(decoding))
        return bool(self._store.run("renew", _record(claim.unit), *arguments))

    def release(self, claim: Claim, *, rest: float = 0.0, tried: bool = True) -> None:
        """Let go; it is sent again after `rest` seconds. `tried` False takes this try back."""
        arguments = (claim.unit.number, claim.owner, int(rest * 1000), int(not tried))
        self._store.run("release", _record(claim.unit), *arguments)

    def progressed(self, claim: Claim) -> None:
        """A page of the unit was stored, so that what was tried before does not count any more."""
        self._store.run("progressed", _record(claim.unit), claim.unit.number)

    def sent(self, unit: Unit, message: str) -> None:
        """A message for the unit is in the queue."""
        self._store.run("sent", _record(unit), unit.number, message)

    def open_jobs(self, most: int) -> tuple[str, ...]:
        """The ids of jobs that are not final, those first that were surveyed longest ago."""
        with self._store.reached():
            ids = self._store.client.zrange(index("open"), 0, most - 1)
            if ids:
                self._store.client.zadd(index("open"), dict.fromkeys(ids, time.time()), xx=True)
        return tuple(job_id.decode() for job_id in ids)

    def survey(self, job_id: str, *, elapsed: float) -> Survey:
        """Where the job stands; while it is decoded, `elapsed` seconds are added to its time. Raises JobNotFound."""
        job, together = self._store.details(job_id)
        record = keys(job_id)
        with self._store.reached(), self._store.client.pipeline(transaction=True) as pipe:
            pipe.smembers(record[2])
            pipe.hgetall(record[3])
            pipe.llen(self._queue)
            pipe.hget(record[0], "worked")
            pipe.time()
            read, fields, waiting, worked, (seconds, micros) = pipe.execute()
        now = seconds * 1000 + micros // 1000
        notes = _Notes(fields, now, self._milliseconds)
        free = [
            unit
            for unit in units_of(job, together)
            if not notes.is_claimed(unit.number) and any(b"%d" % page not in read for page in unit.pages)
        ]
        is_read = any(notes.is_read(unit.number) for unit in units_of(job, together))
        if is_read and elapsed:
            worked = self._store.run("worked", record[:1], elapsed)
        return Survey(job=job, lost=self._lost(free, notes, waiting), is_read=is_read, worked=float(worked or 0.0))

    def workers(self) -> int:
        """How many workers told of themselves lately."""
        with self._store.reached():
            return int(self._store.client.zcount(index("workers"), time.time() - _WORKER_SECONDS, "+inf"))

    def present(self, worker: str) -> None:
        """Tell of a worker."""
        with self._store.reached(), self._store.client.pipeline(transaction=False) as pipe:
            pipe.zadd(index("workers"), {worker: time.time()})
            pipe.zremrangebyscore(index("workers"), "-inf", time.time() - 4 * _WORKER_SECONDS)
            pipe.execute()

    def lead(self, who: str, seconds: float) -> bool:
        """Whether this one looks after the jobs now: one at a time, for so many seconds after each time it asked."""
        with self._store.reached():
            key, client = index("sweeper"), self._store.client
            if client.set(key, who, nx=True, px=int(seconds * 1000)):
                return True
            mine = bool(client.get(key) == who.encode())
            return mine and bool(client.pexpire(key, int(seconds * 1000)))

    def _lost(self, units: Sequence[Unit], notes: _Notes, waiting: int) -> tuple[Unit, ...]:
        messages = [notes.message(unit.number) for unit in units]
        if not units:
            return ()
        with self._store.reached():
            known = self._store.client.hmget(self._queue + ".msgs", [message or b"-" for message in messages])
        found = []
        for unit, content in zip(units, known, strict=True):
            patience = UNKNOWN_SECONDS if content is None else QUEUED_SECONDS if waiting else IDLE_SECONDS
            if notes.is_overdue(unit.number, patience):
                found.append(unit)
        return tuple(found)


class _Notes:
    """The fields of `units`, at one moment."""

    def __init__(self, fields: Mapping[bytes, bytes], now: int, claim: int) -> None:
        """`claim` is how many milliseconds a claim holds at most."""
        self._fields = fields
        self._now = now
        self._claim = claim

    def is_claimed(self, number: int) -> bool:
        return self._is_ahead(int(self._get("claim", number).split()[0]), self._claim)

    def is_read(self, number: int) -> bool:
        return self._is_ahead(int(self._get("reads", number)), self._claim)

    def message(self, number: int) -> bytes:
        return b"".join(self._get("sent", number).split()[1:])

    def is_overdue(self, number: int, patience: float) -> bool:
        if self._is_ahead(int(self._get("rest", number)), LONGEST_REST * 1000):
            return False
        doublings = min(max(int(self._get("sends", number)) - 1, 0), _MOST_DOUBLINGS)
        sent = int(self._get("sent", number).split()[0])
        return bool(abs(self._now - sent) >= patience * 1000 * 2**doublings)

    def _is_ahead(self, moment: int, most: float) -> bool:
        """Whether it is still to come. One farther ahead than `most` was noted before the clock was set back."""
        return 0 < moment - self._now <= most

    def _get(self, name: str, number: int) -> bytes:
        return self._fields.get(b"%s:%d" % (name.encode(), number), b"0")


def _record(unit: Unit) -> tuple[str, str]:
    record = keys(unit.job_id)
    return record[0], record[3]
