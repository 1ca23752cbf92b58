"""How a page process and its parent talk: two lengths, a JSON header, and raw bytes behind it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from typing import IO, Any, Final

Frame = tuple[dict[str, Any], bytes]

_LENGTHS: Final = struct.Struct(">IQ")
_MOST_HEAD: Final = 1 << 26
"""Bytes of a header: more than the words of any page take."""


def write_frame(
    stream: IO[bytes], header: Mapping[str, Any], pieces: Iterable[bytes | memoryview] = (), size: int = 0
) -> None:
    """Write one frame and flush. `size` is the bytes of all pieces together, which are taken one at a time."""
    head = json.dumps(header).encode()
    stream.write(_LENGTHS.pack(len(head), size))
    stream.write(head)
    for piece in pieces:
        stream.write(piece)
    stream.flush()


def read_frame(stream: IO[bytes], most: int | None = None) -> Frame | None:
    """Read one frame; None when the other side is gone or sends what is none, or more than `most` bytes behind a header."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head_size, body_size = _LENGTHS.unpack(lengths)
    if head_size > _MOST_HEAD or (most is not None and body_size > most):
        return None
    head, body = stream.read(head_size), stream.read(body_size)
    if len(head) < head_size or len(body) < body_size:
        return None
    try:
        header = json.loads(head)
    except (ValueError, RecursionError):
        return None
    return (header, body) if isinstance(header, dict) else None
