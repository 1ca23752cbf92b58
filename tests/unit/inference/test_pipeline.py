from __future__ import annotations

import random

import pytest
from PIL import Image, ImageDraw

from ocr_mlx.domain import DecodeParams, Finish, PageStatus, Prompt, TextDelta, TextRewind
from ocr_mlx.inference.batch import DecodeBatch
from ocr_mlx.inference.blank import is_blank
from ocr_mlx.inference.pipeline import PageRun, prepare
from tests.unit.fakes import FakeDocument, fake_model, ids, never, page


def read(scripts: list[list[int]], params: DecodeParams | None = None) -> tuple[PageRun, list[TextDelta]]:
    model = fake_model([scripts])
    mode = model.family.modes["plain"]
    deltas: list[TextDelta] = []
    prepared = prepare(model, page(0, 0), Prompt(), mode)
    run = PageRun(model, page(0, 0), prepared, mode, on_text=deltas.append, on_done=lambda: None)
    batch = DecodeBatch(model)
    batch.join(run.rows(params or DecodeParams(), never()))
    while batch.rows:
        batch.step()
    return run, deltas


def test_rows_are_joined_by_their_glue_and_counted() -> None:
    run, _ = read([ids("first"), ids("second one"), ids("3")])
    result = run.result()
    assert result.text == result.raw_text == "first\nsecond one\n3"
    assert result.status is PageStatus.OK
    assert result.generated_tokens == len(result.token_ids) == len("firstsecond one3")
    assert result.prompt_tokens == 3
    assert result.effective_size == (1, 1)
    assert result.confidence is not None and 0.9 < result.confidence < 1.0


def test_deltas_come_in_reading_order_though_later_rows_end_first() -> None:
    run, deltas = read([ids("a long first row"), ids("2"), ids("third")])
    assert "".join(delta.text for delta in deltas) == run.result().raw_text
    assert sum(delta.tokens for delta in deltas) == run.result().generated_tokens


def test_a_row_that_says_nothing_keeps_its_glue_in_place() -> None:
    run, deltas = read([ids("top"), [], ids("end")])
    assert run.result().raw_text == "top\n\nend"
    assert "".join(delta.text for delta in deltas) == "top\n\nend"


def test_the_worst_row_names_the_page() -> None:
    run, _ = read([ids("ok"), ids("too long for it")], DecodeParams(max_new_tokens=5))
    result = run.result()
    assert result.status is PageStatus.TRUNCATED
    assert result.text == "ok\ntoo l"


def test_silence_is_blank_not_ok() -> None:
    assert read([[]])[0].result().status is PageStatus.BLANK


def test_blank_pages_never_reach_the_processor() -> None:
    model = fake_model([])
    blank = FakeDocument([None]).page(0, dpi=96)
    assert prepare(model, blank, Prompt(), model.family.modes["plain"]).rows == ()


def test_a_small_word_is_not_blank_and_grain_is() -> None:
    paper = Image.effect_noise((800, 1000), 8).convert("RGB").point(lambda v: min(255, v + 110))
    assert is_blank(paper)
    ImageDraw.Draw(paper).text((300, 500), "one word", fill=(20, 20, 20))
    assert not is_blank(paper)
    assert is_blank(Image.new("RGB", (1, 1), "black"))
    assert is_blank(Image.new("RGB", (3000, 10), "white"))


def test_a_last_row_without_text_still_ends_the_line_before_it() -> None:
    run, deltas = read([ids("top"), []])
    assert run.result().raw_text == "top\n"
    assert "".join(delta.text for delta in deltas) == "top\n"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (["one", "two STOP three", "four"], "one\ntwo "),
        (["one STOP", "a much longer second row STOP", "3"], "one "),
        (["a long first row that ends late STOP here", "STOP", "3"], "a long first row that ends late "),
        (["one", "two", "three STOP"], "one\ntwo\nthree "),
        (["STOP", "two"], ""),
    ],
)
def test_a_stop_string_ends_the_page_and_not_only_its_row(rows: list[str], text: str) -> None:
    """Later rows may have ended long before."""
    run, deltas = read([ids(row) for row in rows], DecodeParams(stop=("STOP",)))
    assert run.result().raw_text == "".join(delta.text for delta in deltas) == text
    assert run.result().status is (PageStatus.OK if text else PageStatus.BLANK)
    assert run.unfinished == 0


def test_a_page_that_was_stopped_is_done_once() -> None:
    model = fake_model([[ids("one STOP"), ids("two"), ids("three STOP")]])
    mode = model.family.modes["plain"]
    done: list[bool] = []
    prepared = prepare(model, page(0, 0), Prompt(), mode)
    run = PageRun(model, page(0, 0), prepared, mode, on_text=lambda _: None, on_done=lambda: done.append(True))
    batch = DecodeBatch(model)
    rows = run.rows(DecodeParams(stop=("STOP",)), never())
    batch.join(rows[:2])
    while batch.rows:
        batch.step()
    batch.join(rows[2:])  # it waited for a place, and is over before it had one
    assert not batch.rows and done == [True]


def told(events: list[TextDelta | TextRewind]) -> str:
    """The text as somebody has it who follows a page's events."""
    text = ""
    for event in events:
        text = text + event.text if isinstance(event, TextDelta) else text[: event.length]
    return text


LONG = "".join(random.Random(1).choices("abcdefgh ijklm", k=700))


@pytest.mark.parametrize("loops", [0, 1, 2])
@pytest.mark.parametrize(
    "others", [["the first row, with é", "a second", "the third"], [LONG] * 3], ids=["short", "long"]
)
def test_a_loop_that_was_taken_back_is_told_in_characters_of_the_page(loops: int, others: list[str]) -> None:
    rows = [ids(text) for text in others]
    rows[loops] = [*ids("good text é "), *ids("la ") * 300]
    run, events = read(rows)
    result = run.result()
    assert result.status is PageStatus.LOOP_RECOVERED
    seen = loops == 0 or others[0] != LONG
    assert any(isinstance(event, TextRewind) for event in events) == seen, "what nobody saw needs no rewind"
    assert told(events) == result.raw_text and "good text é la" in result.raw_text
    assert result.raw_text.count("la ") < 8


def test_a_loop_that_comes_back_is_told_too() -> None:
    run, events = read([ids("one"), ids("ha ") * 300], DecodeParams(no_repeat_ngram=2000))
    assert run.result().status is PageStatus.LOOP_STOPPED
    assert told(events) == run.result().raw_text == "one\nha "


def test_recovered_never_hides_a_worse_end() -> None:
    run, _ = read([ids("good text ") + ids("la ") * 300, ids(LONG)], DecodeParams(max_new_tokens=530))
    assert run.result().status is PageStatus.TRUNCATED


def test_what_was_taken_back_before_its_turn_never_comes_out() -> None:
    model = fake_model([[ids("one"), ids("two")]])
    mode = model.family.modes["plain"]
    events: list[TextDelta | TextRewind] = []
    prepared = prepare(model, page(0, 0), Prompt(), mode)
    run = PageRun(model, page(0, 0), prepared, mode, on_text=events.append, on_done=lambda: None)
    first, second = run.rows(DecodeParams(), never())
    second._on_text("good and gone", 13)
    second._on_rewind(4)
    first.end(Finish.EOS)
    second._on_text("!", 1)
    assert told(events) == "\ngood!"
    second._on_rewind(2)
    assert told(events) == "\ngo"
