"""What a page process, taken over by a hostile file, may answer."""

from __future__ import annotations

import io

from ocr_mlx.pages.frames import read_frame, write_frame

_MOST = 1000


def one(data: bytes) -> None:
    """A frame, or None; what was read can be written again."""
    found = read_frame(io.BytesIO(data), _MOST)
    if found is None:
        return
    header, body = found
    assert isinstance(header, dict) and len(body) <= _MOST
    stream = io.BytesIO()
    write_frame(stream, header, (body,), len(body))
    again = read_frame(io.BytesIO(stream.getvalue()), _MOST)
    assert again is not None and again[1] == body
