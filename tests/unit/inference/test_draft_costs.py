"""What drafting a page costs, counted in passes, their widths and questions to drafts: right words pay, wrong ones cost little.

A pass of some rows costs as many as there are, more where it is wider (`draft_worth.cost`), and so does a row that is asked
for a draft (`draft_worth.asking`). Clocks say the same, but only on a machine that does nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from ocr_mlx.domain import Word
from ocr_mlx.inference.draft import Drafter, drafters
from ocr_mlx.inference.draft_worth import asking, cost
from ocr_mlx.model.base import ModelInputs, PreparedPage
from tests.unit.fakes import ids, page
from tests.unit.inference.talking import Heard, graph, hear, script, talking_model
from tests.unit.inference.test_draft_follow import WORDS
from tests.unit.inference.test_verify import calm

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ROWS, LENGTH = 24, 30
Change = Callable[[str], str]


@dataclass
class Asked:
    """A drafter, and how often it was asked."""

    drafter: Drafter
    times: int = 0

    @property
    def silent(self) -> bool:
        return self.drafter.silent

    def propose(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        self.times += 1
        return self.drafter.propose(tokens, most)

    def verified(self, wider: int, accepted: int) -> None:
        self.drafter.verified(wider, accepted)


def lines() -> list[str]:
    """Lines of print: different beginnings of the same prose."""
    starts = [WORDS.index(" ", at) + 1 for at in range(0, 20 * ROWS, 20)]
    return [WORDS[start : start + LENGTH] for start in starts]


def layer(texts: Sequence[str], change: Change) -> tuple[Word, ...]:
    return tuple(
        Word(text=change(word), box=(10.0 * i, 20.0 * number, 10.0 * i + 8, 20.0 * number + 12))
        for number, text in enumerate(texts)
        for i, word in enumerate(text.split())
    )


def spent(texts: Sequence[str], change: Change | None) -> tuple[float, int]:
    """What the page costs, in passes of one token for one row, and how many such passes it takes."""
    model = calm(talking_model())
    empty = ModelInputs(token_ids=(1,), pixels=None)
    prepared = PreparedPage(
        rows=(empty,) * len(texts),
        glue=("\n",) * len(texts),
        boxes=tuple((0, 20 * i, 900, 20 * i + 12) for i in range(len(texts))),
    )
    model.processor.max_rows = 64
    found: list[Drafter | None] = [None] * len(texts)
    if change is not None:
        found = drafters(model, replace(page(0, 0), text_layer=layer(texts, change)), prepared)
    asked = [Asked(one) if one is not None else None for one in found]
    rows = [Heard(model, script(ids(text)), drafter=one) for text, one in zip(texts, asked, strict=True)]
    outcomes = hear(model, *rows)
    assert [outcome.text for outcome in outcomes] == list(texts)
    passes = sum(count * (1 + cost(count) * (wide - 1)) for count, wide in graph(model).passes)
    questions = sum(one.times for one in asked if one is not None)
    return passes + asking(len(texts)) * questions, sum(outcome.decode_steps for outcome in outcomes)


def wrong_letters(share: float, seed: int) -> Change:
    draw = random.Random(seed)
    return lambda word: "".join(draw.choice(LETTERS) if draw.random() < share else c for c in word)


def test_right_words_pay() -> None:
    texts = lines()
    plain, steps = spent(texts, None)
    drafted, fewer = spent(texts, lambda word: word)
    assert steps >= 7 * fewer and plain >= 1.7 * drafted


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.2, 0.3, 0.4, 0.6, 1.0])
def test_wrong_letters_cost_little(share: float, seed: int) -> None:
    texts = lines()
    plain, _ = spent(texts, None)
    drafted, _ = spent(texts, wrong_letters(share, seed))
    assert plain >= 0.98 * drafted
