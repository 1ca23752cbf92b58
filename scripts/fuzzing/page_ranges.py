"""Page ranges as people write them."""

from __future__ import annotations

from scripts.fuzzing.parts import text_of, typed

from ocr_mlx.pages.ranges import parse_page_range


def one(data: bytes) -> None:
    """The first two bytes are how many pages there are."""
    count, text = int.from_bytes(data[:2], "big"), text_of(data[2:])
    with typed():
        indices = parse_page_range(text, count)
        assert len(set(indices)) == len(indices)
        assert all(0 <= index < count for index in indices)
