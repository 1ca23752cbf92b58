"""The model's words become clean Markdown and blocks on the page, whatever they are."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ocr_mlx.domain import Block, Page
from ocr_mlx.model.base import PageText
from ocr_mlx.model.families.deepseek_ocr.family import FAMILY
from ocr_mlx.model.families.deepseek_ocr.grounding import boxes_in, split
from ocr_mlx.model.families.deepseek_ocr.modes import Reading
from ocr_mlx.model.families.deepseek_ocr.postprocess import clean_page
from tests.families import deepseek_pages

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "pages-answers.json").read_text())
MARKS = ("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>")


def page(width: int = 1998, height: int = 999, origin: Literal["image", "pdf"] = "image", index: int = 0) -> Page:
    return Page(index=index, image=Image.new("RGB", (1, 1)), width=width, height=height, dpi=None, origin=origin)


def clean(raw: str, reading: Reading = Reading.LAYOUT, where: Page | None = None) -> PageText:
    return clean_page(raw, where or page(), reading)


def thousandths(block: Block) -> list[float]:
    return [round(value * 999, 6) for value in block.normalized]


def ref(what: str, boxes: str = "[[1, 2, 3, 4]]") -> str:
    return f"<|ref|>{what}<|/ref|><|det|>{boxes}<|/det|>"


@pytest.mark.parametrize("name", deepseek_pages.OUTPUTS)
def test_well_formed_answers_are_cleaned_as_upstream_does(name: str) -> None:
    found, wanted = clean(deepseek_pages.OUTPUTS[name]), GOLDEN[name]
    assert found.text == wanted["text"].strip()
    assert [[block.label, thousandths(block)] for block in found.blocks] == wanted["boxes"]


def test_a_block_says_where_and_what() -> None:
    raw = f"{ref('title', '[[99, 111, 999, 222]]')}\n# Head\n\n{ref('text', '[[0, 333, 666, 999]]')}\nBody\n"
    assert clean(raw).blocks == (
        Block(
            label="title",
            text="# Head",
            box=(198.0, 111.0, 1998.0, 222.0),
            normalized=(99 / 999, 111 / 999, 1.0, 222 / 999),
        ),
        Block(label="text", text="Body", box=(0.0, 333.0, 1332.0, 999.0), normalized=(0.0, 333 / 999, 666 / 999, 1.0)),
    )


def test_each_box_is_a_block_of_the_same_text() -> None:
    found = clean(f"{ref('text', '[[0, 0, 9, 9], [10, 10, 19, 19]]')}\nGoes on.")
    assert [(block.text, thousandths(block)) for block in found.blocks] == [
        ("Goes on.", [0, 0, 9, 9]),
        ("Goes on.", [10, 10, 19, 19]),
    ]
    assert found.text == "Goes on."


def test_pictures_are_numbered_by_their_blocks() -> None:
    raw = f"{ref('image', '[[0,0,9,9],[1,1,5,5]]')}\nA{ref('image')}\n\nB"
    assert clean(raw).text == "![](images/0.jpg)\n![](images/1.jpg)\n\nA![](images/2.jpg)\n\nB"
    assert [block.label for block in clean(raw).blocks] == ["image"] * 3
    assert clean(raw, where=page(origin="pdf", index=4)).text.startswith("![](images/4_0.jpg)\n![](images/4_1.jpg)")
    assert FAMILY.numbered, "a result of the same pixels elsewhere names other pictures"


def test_a_picture_without_a_box_leaves_nothing() -> None:
    assert clean(f"A\n{ref('image', '[[a, b]]')}\nB") == PageText(text="A\n\nB")


def test_tables_stay_html() -> None:
    table = "<table><tr><td>1</td><td></td></tr></table>"
    found = clean(f"{ref('table')}\n{table}")
    assert found.text == found.blocks[0].text == table


def test_lines_that_are_quoted_are_the_text() -> None:
    raw = f"{ref('Hello there', '[[1, 1, 9, 9]]')}\n{ref('table')}\n{ref('Ωmega 3')}{ref('end')}"
    found = clean(raw, Reading.WORDS)
    assert found.text == "Hello there\ntable\nΩmega 3\nend"
    assert [(block.label, block.text) for block in found.blocks] == [
        ("text", "Hello there"),
        ("text", "table"),
        ("text", "Ωmega 3"),
        ("text", "end"),
    ]


def test_a_layout_in_answer_to_the_other_prompt_is_a_layout() -> None:
    found = clean(f"{ref('title')}\n# Head\n{ref('text')}\nBody", Reading.WORDS)
    assert found.text == "# Head\n\nBody"
    assert [block.label for block in found.blocks] == ["title", "text"]


def test_words_in_answer_to_the_document_prompt_stay() -> None:
    found = clean(f"{ref('## (15) Heading')}rest of it\n{ref('Zwei Wörter')}")
    assert found.text == "## (15) Headingrest of it\nZwei Wörter"
    assert [(block.label, block.text) for block in found.blocks] == [
        ("text", "## (15) Heading"),
        ("text", "Zwei Wörter"),
    ]


def test_unknown_kinds_of_regions_are_kinds() -> None:
    found = clean(f"{ref('margin_note')}\nNote")
    assert found == PageText(text="Note", blocks=found.blocks)
    assert found.blocks[0].label == "margin_note"


def test_what_was_looked_for_is_label_and_text() -> None:
    found = clean(ref("the red button", "[[0, 0, 999, 999]]"), Reading.PHRASE)
    assert found.text == "the red button"
    assert found.blocks[0].label == found.blocks[0].text == "the red button"


def test_phrases_stay_in_their_sentence() -> None:
    found = clean(f"There is {ref('a dog')} beside {ref('a tree')}.", Reading.ANY)
    assert found.text == "There is a dog beside a tree."
    assert [block.label for block in found.blocks] == ["a dog", "a tree"]


def test_unlimited_ocrs_way() -> None:
    raw = "<|det|>title [10, 20, 30, 40]<|/det|># Head\n<|det|>text [1, 2, 3, 4]<|/det|>Body\n<|det|>image [5, 6, 7, 8]<|/det|>"
    found = clean(raw)
    assert found.text == "# Head\nBody\n![](images/0.jpg)"
    assert [(block.label, block.text, thousandths(block)) for block in found.blocks] == [
        ("title", "# Head", [10, 20, 30, 40]),
        ("text", "Body", [1, 2, 3, 4]),
        ("image", "", [5, 6, 7, 8]),
    ]


def test_a_box_alone_is_a_block() -> None:
    assert clean("<|det|>[[1, 2, 3, 4]]<|/det|>x").blocks[0].label == "text"


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("[[1, 2, 3, 4]]", [[1, 2, 3, 4]]),
        ("[[[1, 2, 3, 4]], [[[5,6,7,8]]]]", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("[1,2,3,4]", [[1, 2, 3, 4]]),
        ("[[0.5, 1., 2.25, 3]]", [[0.5, 1, 2.25, 3]]),
        ("[[900, 800, 100, 200]]", [[100, 200, 900, 800]]),
        ("[[-5, 0, 1000, 123456]]", [[0, 0, 999, 999]]),
        ("[[1, 2, 3, 4], [5, 6", [[1, 2, 3, 4]]),
        ("[[1, 2, 3]]", []),
        ("[[1, 2, 3, 4, 5]]", []),
        ("[[a, b, c, d]]", []),
        ('[["1", "2", "3", "4"]]', []),
        ("[[1e5, 2, 3, 4]]", []),
        ("[[NaN, 2, Infinity, 4]]", []),
        ("[[1, 2, 3, 99999999999999999999]]", []),
        ("__import__('os').system('true')", []),
        ("", []),
        ("[" * 100_000, []),
    ],
)
def test_boxes_are_read_by_their_looks(text: str, boxes: list[list[float]]) -> None:
    assert [[round(value * 999, 6) for value in box] for box in boxes_in(text)] == boxes


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (f"{ref('text', '[[x]]')}\nStays", "Stays"),
        (f"{ref('text', '')}\nStays", "Stays"),
        (f"{ref('text', 'Words in the wrong place')}\nStay", "Words in the wrong place\nStay"),
        ("<|ref|>text<|/ref|>\nStays", "Stays"),
        ("<|ref|>Some words<|/ref|> stay", "Some words stay"),
        ("<|ref|>word<|/ref|> stays", "word stays"),
        ("Stays\n<|ref|>tex", "Stays"),
        ("Stays\n<|ref|>text<|/ref|>", "Stays"),
        ("Stays\n<|ref|>text<|/ref|><|det|>[[12, 3", "Stays"),
        ("Stays\n<|ref|>text<|/ref|><|det|>", "Stays"),
        ("Stays <|ref|>and so does this", "Stays and so does this"),
        ("Stays <|det|>and so does this", "Stays and so does this"),
        ("<|det|>word<|/det|> stays", "word stays"),
        ("<|det|>two words [[1, 2, 3, 4]]<|/det|> stay", "two words stay"),
        ("A<|/det|>B<|/ref|>C", "ABC"),
        (f"<|ref|>a {ref('text')}b", "a b"),
        (f"<|ref|>text{ref('text')}b", "b"),
        ("<|ref|>text<|/ref|>words<|det|>[[1, 2, 3, 4]]<|/det|>more", "wordsmore"),
        ("<|ref|>text<|ref|>text<|/ref|><|/ref|>x", "x"),
        ("<|ref|><|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>x", "x"),
        ("<|ref|>title<|/ref|>\n<|det|>[[1, 2, 3, 4]]<|/det|>x", "x"),
        ("<|ref |>x<ref>", "<|ref |>x<ref>"),
        ("", ""),
    ],
)
def test_malformed_answers_lose_marks_and_no_text(raw: str, text: str) -> None:
    assert clean(raw).text == text


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([*MARKS, "[[1, 2, 3, 4]]", "[1,2", "Word!", "text", "image", "\n", " ", "\\coloneqq", "[["])
    ),
    st.sampled_from(list(Reading)),
)
def test_no_answer_breaks_it(pieces: list[str], reading: Reading) -> None:
    raw = "".join(pieces)
    found = clean(raw, reading)
    assert not any(mark in found.text for mark in MARKS)
    if "<|det|>" not in raw:
        assert found.text.count("Word!") == raw.count("Word!")
    for block in found.blocks:
        assert 0 <= block.normalized[0] <= block.normalized[2] <= 1
        assert 0 <= block.box[1] <= block.box[3] <= 999


@pytest.mark.parametrize(
    "raw",
    (
        "<|ref|>" * 40_000,
        "<|det|>[[" * 40_000,
        "<|ref|>text<|/ref|>" * 40_000,
        "<|ref|>a<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>" * 10_000,
        "<|det|>" + "[1, 2, 3, " * 50_000,
        "\n" * 400_000,
        "<|det|>" + " " * 400_000 + "x",
    ),
    ids=lambda raw: raw[:12].strip() or "blank",
)
def test_long_answers_take_no_time(raw: str) -> None:
    started = time.perf_counter()
    clean(raw)
    assert time.perf_counter() - started < 3


def test_parts_hold_all_text() -> None:
    parts = split(f"before{ref('text')}one{ref('title')}two")
    assert [(part.what, part.text, len(part.boxes)) for part in parts] == [
        (None, "before", 0),
        ("text", "one", 1),
        ("title", "two", 1),
    ]
