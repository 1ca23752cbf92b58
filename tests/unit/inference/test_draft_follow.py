from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ocr_mlx.inference.draft import Drafter
from ocr_mlx.inference.draft_follow import TextDrafter
from ocr_mlx.inference.draft_place import DraftText
from ocr_mlx.inference.draft_worth import Worth
from tests.unit.fakes import byte_tokenizer, ids

PROSE = (
    "Reading a page begins with its letters. A model that has read many pages knows what a word looks like, and it\n"
    "knows which words often follow one another; so it says the most likely one and looks again. Where the file itself\n"
    "carries the words, nobody needs to guess: they are only confirmed, several of them in one glance. That is all there\n"
    "is to it, and yet the difference is large, since looking once takes about as long for ten tokens as for one.\n"
    "Errors in the file do no harm. The model stays the judge of every single token, and the file merely suggests."
)
WORDS = PROSE.replace("\n", " ")


def word_tokenizer() -> Tokenizer:
    """Byte-level BPE, as most language models have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [WORDS], trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters, show_progress=False)
    )
    return tokenizer


BYTES, PIECES = byte_tokenizer(), word_tokenizer()


def drafter(text: str, tokenizer: Tokenizer = PIECES, **options: object) -> TextDrafter:
    return TextDrafter(tokenizer, DraftText(text), Worth(1), **options)  # type: ignore[arg-type]


def passes(one: Drafter, tokens: Sequence[int], most: int = 15) -> int:
    """How many passes behind the first token a model takes that says `tokens` and then ends."""
    said, count = 1, 0
    while said <= len(tokens):
        draft = [] if one.silent else list(one.propose(tokens[:said], most))
        assert len(draft) <= most
        right = 0
        while right < len(draft) and said + right < len(tokens) and draft[right] == tokens[said + right]:
            right += 1
        if draft:
            one.verified(len(draft), right)
        said += right + 1
        count += 1
    return count


def spelled(text: str, tokenizer: Tokenizer = PIECES) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
def test_a_right_draft_takes_a_pass_for_many_tokens(tokenizer: Tokenizer) -> None:
    tokens = spelled(WORDS, tokenizer)
    assert passes(drafter(WORDS, tokenizer), tokens) <= len(tokens) / 16 + 5


def test_the_beginning_is_proposed_before_anything_is_said() -> None:
    careful = list(drafter("Once upon a time", BYTES).propose([], 15))
    assert 0 < len(careful) < 6
    assert careful == ids("Once upon")[: len(careful)]
    trusted = drafter("Once upon a time", BYTES)
    trusted._worth.saw(100, 0)
    assert list(trusted.propose([], 4)) == ids("Once")


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (PROSE, WORDS),
        (PROSE, PROSE),
        (WORDS, "# " + WORDS.replace("letters. A", "letters.\n\n## A").replace("several", "**several**")),
        (PROSE.replace("difference", "differ-\nence").replace("likely", "like-\nly"), WORDS),
        (WORDS.upper(), WORDS.upper()),
    ],
    ids=["lines joined", "lines kept", "marks added", "hyphens", "capitals"],
)
def test_what_models_make_of_a_page(tokenizer: Tokenizer, draft: str, said: str) -> None:
    tokens = spelled(said, tokenizer)
    assert passes(drafter(draft, tokenizer), tokens) <= len(tokens) / 5


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
def test_errors_in_the_draft(tokenizer: Tokenizer) -> None:
    rng = random.Random(3)
    wrong = "".join(rng.choice(("", c + c, "x")) if rng.random() < 0.03 else c for c in WORDS)
    tokens = spelled(WORDS, tokenizer)
    assert passes(drafter(wrong, tokenizer), tokens) <= len(tokens) / 2


def test_words_dropped_and_said_twice() -> None:
    words = WORDS.split()
    wrong = [word for i, word in enumerate(words) for _ in range(0 if i % 17 == 5 else 2 if i % 17 == 11 else 1)]
    tokens = ids(WORDS)
    assert passes(drafter(" ".join(wrong), BYTES), tokens) <= len(tokens) / 3


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
def test_another_reading_order(tokenizer: Tokenizer) -> None:
    lines = PROSE.split("\n")
    tokens = spelled(WORDS, tokenizer)
    shuffled = drafter("\n".join([lines[3], lines[0], lines[4], lines[2], lines[1]]), tokenizer)
    assert passes(shuffled, tokens) <= len(tokens) / 2.5


def test_a_row_that_begins_in_the_middle_of_its_text() -> None:
    text = "the first half of a line and then the second half of it"
    second = drafter(text, BYTES, start=20)
    tokens = ids("then the second half of it")
    assert passes(second, tokens) <= 9


def test_lines_that_the_model_itself_has_ended_stay() -> None:
    text = "Name:\tA\nAge:\t7\n\n| a | b |\n|---|---|\n| c-\nd | e |"
    again = drafter(text, BYTES, again=True)
    again._worth.saw(200, 0)
    assert passes(again, ids(text)) <= len(ids(text)) // 16 + 1


def test_a_wrong_draft_falls_silent_and_costs_nothing_before() -> None:
    rng = random.Random(1)
    other = " ".join("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(7)) for _ in range(300))
    one, tokens, drafted = drafter(other, BYTES), ids(WORDS) * 3, 0
    for count in range(1, len(tokens)):
        draft = one.propose(tokens[:count], 15)
        drafted += len(draft)
    assert one.silent
    assert drafted <= 12


def test_a_long_stretch_that_the_draft_does_not_hold() -> None:
    strange = "".join(random.Random(2).choice("bcdfghjklmnpqrstvwxz ") for _ in range(400))
    middle = WORDS.index("Where")
    said = WORDS[:middle] + strange + " " + WORDS[middle:]
    known = len(ids(WORDS))
    assert passes(drafter(WORDS, BYTES), ids(said)) <= len(ids(said)) - known / 2


def test_one_bad_page_silences_all_its_rows_and_no_other_page() -> None:
    page, other = Worth(64), Worth(64)
    rows = [TextDrafter(BYTES, DraftText("nothing of this"), page) for _ in range(40)]
    good = TextDrafter(BYTES, DraftText("nothing of this"), other)
    for row in rows:
        row.propose(ids("Quite"), 15)
    assert all(row.silent for row in rows)
    assert not good.silent


def test_proposals_that_are_never_accepted_end() -> None:
    one = drafter(WORDS, BYTES)
    tokens = ids(WORDS)
    for count in range(1, 200):
        draft = one.propose(tokens[:count], 15)
        if draft:
            one.verified(len(draft), 0)  # right, but too close to call each time
    assert one.silent
    assert list(one.propose(tokens[:200], 15)) == []


def test_tokens_that_were_taken_back() -> None:
    tokens = ids(WORDS)
    one = drafter(WORDS, BYTES)
    one._worth.saw(200, 0)
    one.propose(tokens[:100], 15)
    one.propose([*tokens[:100], *ids("aaaaaaaaaaaa")], 15)
    assert list(one.propose(tokens[:60], 15)) == tokens[60:75]


def test_a_draft_ends_before_a_token_that_the_model_never_chooses() -> None:
    one = drafter("one two three", BYTES, never=frozenset(ids("h")))
    one._worth.saw(200, 0)
    assert list(one.propose(ids("on"), 15)) == ids("e two t")


def test_half_a_character_said() -> None:
    one = drafter("größer und schöner", BYTES)
    one._worth.saw(200, 0)
    said = ids("gr") + ids("ö")[:1]
    assert list(one.propose(said, 15))[:4] == ids("größer")[3:7]


@given(st.text(max_size=80), st.lists(st.integers(0, 258), max_size=60), st.integers(1, 15), st.booleans())
def test_nothing_that_is_said_makes_it_fail(text: str, tokens: list[int], most: int, again: bool) -> None:
    draft = DraftText(text.encode("utf-8", "replace").decode())
    one = TextDrafter(BYTES, draft, Worth(1), again=again, never=frozenset({0, 1, 2}))
    for count in range(len(tokens) + 1):
        proposed = one.propose(tokens[:count], most)
        assert len(proposed) <= most
        assert not {0, 1, 2} & set(proposed)
        if proposed:
            one.verified(len(proposed), 0)
