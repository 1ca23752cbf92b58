from __future__ import annotations

import pytest

from ocr_mlx.inference.text import TextStream
from tests.unit.fakes import byte_tokenizer, ids


def say(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(byte_tokenizer(), stop)
    pieces = []
    for token in ids(text):
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    return pieces, stream


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語", "a🙂b", " leading and  double "])
def test_only_whole_characters_come_out_and_nothing_is_lost(text: str) -> None:
    pieces, stream = say(text)
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + stream.finish(ids(text)) == text
    assert stream.text == text


def test_half_a_character_at_the_end_never_comes_out_before_finish() -> None:
    tokenizer = byte_tokenizer()
    stream = TextStream(tokenizer)
    cut = ids("aé")[:-1]
    assert [stream.add(token) for token in cut] == ["a", ""]
    stream.finish(cut)
    assert stream.text == tokenizer.decode(cut)


def test_a_stop_string_ends_the_text_and_is_not_part_of_it() -> None:
    pieces, stream = say("one two END three", ("END",))
    assert stream.stopped
    assert "".join(pieces) == stream.text == "one two "


def test_what_might_become_a_stop_string_is_held_back_until_it_is_not() -> None:
    pieces, stream = say("aEb", ("EN",))
    assert pieces == ["a", "", "Eb"]
    assert not stream.stopped


def test_a_held_piece_comes_out_at_the_end() -> None:
    pieces, stream = say("abcE", ("EN",))
    assert "".join(pieces) == "abc"
    assert stream.finish(ids("abcE")) == "E"


def test_a_stream_that_was_rewound_goes_on_as_if_nothing_else_had_come() -> None:
    stream = TextStream(byte_tokenizer(), ("STOP",))
    for token in ids("naïve ST"):
        stream.add(token)
    assert stream.text == "naïve "
    for token in ids("ILL 🙂 STOP"):
        stream.add(token)
    assert stream.stopped and stream.text == "naïve STILL 🙂 "
    stream.rewind(ids("naïve ST"))
    assert (stream.text, stream.stopped) == ("naïve ", False)
    assert [stream.add(token) for token in ids("OP")] == ["", ""] and stream.stopped
    stream.rewind(ids("naï")[:-1])
    assert stream.text == "na" and [stream.add(token) for token in ids("ï")[-1:]] == ["ï"]
