"""Jobs as Redis hashes. Servers and workers of several versions may share one Redis, so a record can be of another one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from pydantic import TypeAdapter

from ocr_mlx.errors import JobsUnavailable
from ocr_mlx.jobs.records import DELIVERY, ERROR, JOB, Job, JobState

T = TypeVar("T")


class OtherVersion(JobsUnavailable):
    """A record that this version cannot read; who wrote it can. Waiting does not help."""

    def __init__(self) -> None:
        super().__init__(
            "The job was kept by another version of ocr_mlx, in a form that this one does not know.",
            hint="Run the same version on all servers and workers.",
        )


def parsed(adapter: TypeAdapter[T], record: bytes) -> T:
    """What was kept. Raises OtherVersion."""
    try:
        return adapter.validate_json(record)
    except ValueError:
        raise OtherVersion from None


def job_of(fields: Mapping[bytes, bytes]) -> Job:
    """The job of a hash. Raises OtherVersion."""
    error = fields.get(b"error")
    try:
        return replace(
            parsed(JOB, fields[b"record"]),
            state=JobState(fields[b"state"].decode()),
            done=int(fields[b"done"]),
            updated=float(fields[b"updated"]),
            started=_time(fields.get(b"started")),
            finished=_time(fields.get(b"finished")),
            error=parsed(ERROR, error) if error else None,
            delivery=parsed(DELIVERY, fields[b"delivery"]),
        )
    except (KeyError, ValueError):
        raise OtherVersion from None


def jobs_of(hashes: Iterable[Mapping[bytes, bytes]]) -> Iterator[Job]:
    """The jobs of those hashes that are still there and that this version can read."""
    for fields in hashes:
        if b"record" in fields:
            with contextlib.suppress(OtherVersion):
                yield job_of(fields)


def _time(text: bytes | None) -> float | None:
    return None if text is None else float(text)
