"""Last-Event-ID of a client that comes back to a job's events."""

from __future__ import annotations

from scripts.fuzzing.parts import text_of

from ocr_mlx.server.jobs.events import decode, encode

_MOST = 100


def one(data: bytes) -> None:
    """Pages of any number, but never without end; what is written can be read."""
    found = decode(text_of(data))
    assert all(0 <= index < 10**7 for index in found)
    few = set(sorted(found)[:_MOST])
    assert decode(encode(few)) == few
