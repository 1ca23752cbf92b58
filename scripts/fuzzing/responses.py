"""`/v1/responses`: its input in any form."""

from __future__ import annotations

from scripts.fuzzing import wire
from scripts.fuzzing.parts import chosen


def one(data: bytes) -> None:
    """The bytes as a body; or as the input in one."""
    whole, rest = chosen(data, (True, False))
    body = rest if whole else b'{"model": "builtin", "input": ' + rest + b"}"
    wire.post("/v1/responses", body, {b"content-type": b"application/json"})
