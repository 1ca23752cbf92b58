from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocr_mlx.inference.draft_place import DraftText, Place, _distances, letters

TEXT = DraftText("It was the best of times,\nit was the worst of times; it was the age of wis-\ndom (or so they said).")


def slow_distances(said: str, text: str) -> list[int]:
    """The textbook's table: the best match of `said` that ends at each place of `text`."""
    column = list(range(len(said) + 1))
    ends = []
    for letter in text:
        before, column = column, [0]
        for i, mine in enumerate(said):
            column.append(min(before[i] + (mine != letter), before[i + 1] + 1, column[i] + 1))
        ends.append(column[-1])
    return ends


@given(st.text("abc", min_size=1, max_size=12), st.text("abcd", max_size=40))
def test_distances_are_the_textbooks(said: str, text: str) -> None:
    assert _distances(said, text) == slow_distances(said, text)


def test_letters_alone_count() -> None:
    assert letters("## It's **N°** 7-Up!") == "itsn7up"
    assert TEXT.letters.startswith("itwasthebestoftimesitwas")


@pytest.mark.parametrize(
    ("said", "expected", "at"),
    [
        ("It was the best", 12, 12),
        ("# **It was the", 8, 8),
        ("it was the worst", 33, 32),
        ("was the bost o", 13, 13),  # one letter otherwise
        ("was the beest of", 14, 14),  # one more than in the draft
        ("times, it was the wrst", 32, 32),  # one less
        ("quite: worst", 20, 32),  # the nearest word that begins so
    ],
)
def test_the_place_is_found(said: str, expected: int, at: int) -> None:
    place = TEXT.find(said, expected)
    assert place is not None
    assert place.at == at


def test_of_two_places_the_one_that_was_expected() -> None:
    text = DraftText("so it goes, and so it goes, and so it goes on and on")
    assert [place.at for expected in (8, 18, 29) if (place := text.find("and so it goes", expected))] == [19, 19, 30]


def test_far_away_only_the_very_same_letters() -> None:
    far = DraftText("first lines. " + "some words between " * 20 + "the very last lines of all")
    assert far.find("the very last lin", 4) == Place(len(far.letters) - 7)
    assert far.find("the very lost limb", 4) is None


def test_a_lost_row_has_no_place() -> None:
    assert TEXT.find("quite another thing", 10) is None


@pytest.mark.parametrize(
    ("at", "said", "rest"),
    [
        (5, "It was", " the best"),
        (5, "It was ", "the best "),
        (20, "best of times", ",\nit was "),
        (20, "best of times,\n\n## ", "it was th"),
        (20, "best of times;", "\nit was t"),
        (20, "best of times-", "\nit was t"),
        (60, "of wisdom ", "(or so th"),
        (60, "of wisdom", " (or so t"),
        (0, "", "It was th"),
        (0, "# ", "It was th"),
        (71, "they said).", ""),
    ],
)
def test_what_comes_next(at: int, said: str, rest: str) -> None:
    at = len(letters(TEXT.text[: TEXT.text.index("dom") + 3])) if at == 60 else at
    at = len(TEXT.letters) if at == 71 else len(letters("It was the best of times")) if at == 20 else at
    assert TEXT.rest(at, said, 9) == rest


def test_running_text_has_whole_words() -> None:
    flowing = TEXT.flowing()
    assert flowing.letters == TEXT.letters
    assert flowing.text.endswith("it was the age of wisdom (or so they said).")
    assert "\n" not in flowing.text
    assert DraftText("built in 1990-\n1995, Saint-\nDenis").flowing().text == "built in 1990- 1995, Saint- Denis"


def test_whether_lines_end_where_the_pages_do() -> None:
    at = len(letters("It was the best of times, it was"))
    assert TEXT.breaks_lines(at, "best of times,\nit was") is True
    assert TEXT.breaks_lines(at, "best of times, it was") is False
    assert TEXT.breaks_lines(8, "It was the") is None
