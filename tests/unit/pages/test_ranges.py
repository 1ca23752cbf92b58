from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_mlx.errors import PageOutOfRange
from ocr_mlx.pages.load import parse_page_range

GOOD = {
    "": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    "  ": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    "1": (0,),
    "10": (9,),
    "1-3,7": (0, 1, 2, 6),
    " 1 - 3 , 7 ": (0, 1, 2, 6),
    "8-": (7, 8, 9),
    "-3": (0, 1, 2),
    "7,1-3": (6, 0, 1, 2),
    "2,1-3,2": (1, 0, 2),
    "4-4": (3,),
    "1–2": (0, 1),
    "007": (6,),
}


@pytest.mark.parametrize("text", GOOD)
def test_ranges(text: str) -> None:
    assert parse_page_range(text, 10) == GOOD[text]


BAD = {
    "0": "no page 0",
    "0-2": "no page 0",
    "-0": "no page 0",
    "3-1": "reversed",
    "11": "10 pages",
    "9-11": "10 pages",
    "11-": "10 pages",
    "-11": "10 pages",
    "999999999": "10 pages",
    "-": "not a page range",
    ",": "not a page range",
    "1,,2": "not a page range",
    "1,": "not a page range",
    "a": "not a page range",
    "1-2-3": "not a page range",
    "1.5": "not a page range",
    "--2": "not a page range",
    "1 2": "not a page range",
    "٣": "not a page range",
    "12345678901234567890": "not a page range",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_range_says_so_with_advice(text: str) -> None:
    with pytest.raises(PageOutOfRange, match=BAD[text]) as caught:
        parse_page_range(text, 10)
    assert caught.value.hint


def test_one_page_is_not_plural() -> None:
    with pytest.raises(PageOutOfRange, match="has 1 page;"):
        parse_page_range("2", 1)


@settings(max_examples=150)
@given(st.text("0123456789-, ", max_size=12), st.integers(1, 60))
def test_a_range_gives_existing_pages_once_or_an_error(text: str, count: int) -> None:
    try:
        indices = parse_page_range(text, count)
    except PageOutOfRange:
        return
    assert indices
    assert len(set(indices)) == len(indices)
    assert all(0 <= index < count for index in indices)


@settings(max_examples=100)
@given(st.lists(st.integers(1, 50), min_size=1, unique=True))
def test_written_pages_come_back_in_their_order(pages: list[int]) -> None:
    assert parse_page_range(",".join(map(str, pages)), 50) == tuple(page - 1 for page in pages)
