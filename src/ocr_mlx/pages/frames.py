"""How the PDF process and its parent talk: a length, a JSON header, and raw bytes behind it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import IO, Any

Frame = tuple[dict[str, Any], bytes]

_LENGTHS = struct.Struct(">IQ")


def write_frame(stream: IO[bytes], header: Mapping[str, Any], *pieces: bytes | memoryview) -> None:
    """Write one frame, its body in one or more pieces, and flush."""
    head = json.dumps(header).encode()
    stream.write(_LENGTHS.pack(len(head), sum(memoryview(piece).nbytes for piece in pieces)))
    stream.write(head)
    for piece in pieces:
        stream.write(piece)
    stream.flush()


def read_frame(stream: IO[bytes]) -> Frame | None:
    """Read one frame; None when the other side is gone."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head_size, body_size = _LENGTHS.unpack(lengths)
    head, body = stream.read(head_size), stream.read(body_size)
    if len(head) < head_size or len(body) < body_size:
        return None
    return json.loads(head), body
