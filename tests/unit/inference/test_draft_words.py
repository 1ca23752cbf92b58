from __future__ import annotations

from ocr_mlx.domain import Box, Word
from ocr_mlx.inference.draft_words import RowText, from_earlier, from_layer
from ocr_mlx.model.base import ModelInputs, PreparedPage

ROW = ModelInputs(token_ids=(1,), pixels=None)


def word(text: str, left: float, top: float = 10, width: float | None = None) -> Word:
    return Word(text=text, box=(left, top, left + (width or 10 * len(text)), top + 12))


def prepared(*boxes: Box, glue: tuple[str, ...] = ()) -> PreparedPage:
    rows = tuple(ROW for _ in boxes or glue)
    return PreparedPage(rows=rows, glue=glue or ("", *("\n" for _ in rows[1:])), boxes=boxes)


def texts(words: list[Word], *boxes: Box) -> list[str]:
    return [row.text for row in from_layer(words, prepared(*boxes))]


def test_a_rows_words_from_left_to_right_whatever_the_files_order() -> None:
    words = [word("fox", 100), word("the", 10, 40), word("quick", 40), word("The", 0), word("dog", 50, 40)]
    assert texts(words, (0, 8, 200, 24), (0, 38, 200, 54)) == ["The quick fox", "the dog"]


def test_two_rows_of_one_line() -> None:
    words = [word("left", 0), word("right", 60)]
    assert texts(words, (0, 8, 45, 24), (58, 8, 120, 24)) == ["left", "right"]


def test_a_word_that_is_cut_gives_each_row_its_part() -> None:
    words = [word("incomprehensible", 0)]
    assert texts(words, (0, 8, 60, 24), (60, 8, 160, 24)) == ["incomp", "rehensible"]


def test_words_of_the_lines_above_and_below_are_not_the_rows() -> None:
    words = [word("above", 0, -8), word("here", 0, 10), word("below", 0, 28)]
    assert texts(words, (0, 9, 100, 23)) == ["here"]


def test_low_and_high_marks_are_the_rows() -> None:
    words = [
        Word(text="a", box=(0, 10, 10, 22)),
        Word(text=".", box=(12, 20, 14, 22)),
        Word(text="'", box=(16, 9, 18, 12)),
    ]
    assert texts(words, (0, 9, 40, 23)) == ["a . '"]


def test_ligatures_and_hidden_hyphens_are_what_a_model_writes() -> None:
    assert texts([word("e\ufb03cient", 0), word("co\u00adop", 100), word("cafe\u0301", 160)], (0, 0, 300, 30)) == [
        "efficient coop caf\u00e9"
    ]


def test_without_boxes_every_row_gets_the_whole_page_in_the_files_order() -> None:
    words = [word("One", 0), word("two", 40), word("three", 0, 30), word("four", 60, 30), word("x", 66, 22, 6)]
    assert from_layer(words, prepared(glue=("", ""))) == [RowText(text="One two\nthree four x")] * 2


def test_an_empty_layer_and_a_page_without_rows() -> None:
    assert texts([], (0, 0, 10, 10)) == [""]
    assert from_layer([word("a", 0)], PreparedPage(rows=(), glue=())) == []


def test_an_earlier_text_of_one_row() -> None:
    assert from_earlier("a\nb", prepared(glue=("",)), whole=True) == [RowText(text="a\nb")]


def test_rows_of_one_line_share_its_earlier_text() -> None:
    page = prepared((0, 0, 60, 10), (60, 0, 100, 10), (0, 20, 50, 30), glue=("", " ", "\n\n"))
    assert from_earlier("one two three\n\nfour", page, whole=True) == [
        RowText(text="one two three"),
        RowText(text="one two three", start=0.6),
        RowText(text="four"),
    ]


def test_an_earlier_text_with_other_lines_tells_nothing() -> None:
    page = prepared((0, 0, 60, 10), (0, 20, 50, 30), glue=("", "\n"))
    assert from_earlier("a\nb\nc", page, whole=False) is None
    assert from_earlier("a", page, whole=True) is None
    assert from_earlier("a\nb", prepared(glue=("", "\n")), whole=False) is None


def test_an_earlier_text_that_was_cut_short() -> None:
    page = prepared((0, 0, 60, 10), (0, 20, 50, 30), glue=("", "\n"))
    assert from_earlier("a", page, whole=False) == [RowText(text="a"), RowText(text="")]
