from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.domain import DecodeParams
from ocr_mlx.inference.sampling import Sampler, choose, keep_top, mask, repeated_ngram_ends

NONE = mask((), 8)


def logits(*values: float) -> mx.array:
    return mx.array([list(values)], dtype=mx.float32)


def one(row: mx.array, params: DecodeParams, history: tuple[int, ...] = (), sampler: Sampler | None = None) -> int:
    return choose(row, [sampler or Sampler(params)], [history], mask((), row.shape[-1])).tokens.item()


def test_greedy_takes_the_largest_and_tells_its_probability() -> None:
    row = logits(0.0, 2.0, 1.0)
    choice = choose(row, [Sampler(DecodeParams())], [()], mask((), 3))
    assert choice.tokens.tolist() == [1]
    expected = np.log(np.exp(2.0) / (1 + np.exp(2.0) + np.exp(1.0)))
    assert choice.logprobs.item() == pytest.approx(expected, abs=1e-6)
    assert choice.max_logits.item() == 2.0


def test_banned_tokens_are_never_chosen_and_have_no_probability() -> None:
    choice = choose(logits(0.0, 2.0, 1.0), [Sampler(DecodeParams())], [()], mask((1,), 3))
    assert choice.tokens.tolist() == [2]
    assert choice.max_logits.item() == 1.0


def test_each_row_has_its_own_options() -> None:
    rows = mx.concatenate([logits(0.0, 2.0, 1.9), logits(0.0, 2.0, 1.9)])
    samplers = [Sampler(DecodeParams()), Sampler(DecodeParams(no_repeat_ngram=1))]
    assert choose(rows, samplers, [(1,), (1,)], mask((), 3)).tokens.tolist() == [1, 2]


def test_seeded_rows_repeat_and_differ_between_seeds() -> None:
    def draw(seed: int) -> list[int]:
        sampler = Sampler(DecodeParams(temperature=1.0, seed=seed))
        return [one(mx.zeros((1, 50)), sampler.params, sampler=sampler) for _ in range(12)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert len(set(draw(3))) > 3


def test_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    sampler = Sampler(DecodeParams(repetition_penalty=2.0))
    assert one(logits(3.0, 2.0), sampler.params, sampler=sampler) == 0
    assert one(logits(3.0, 2.0), sampler.params, sampler=sampler) == 1
    sampler = Sampler(DecodeParams(repetition_penalty=2.0))
    assert one(logits(-1.0, -1.5), sampler.params, sampler=sampler) == 0
    assert one(logits(-1.0, -1.5), sampler.params, sampler=sampler) == 1


def test_penalty_forgets_tokens_that_left_the_window() -> None:
    sampler = Sampler(DecodeParams(repetition_penalty=10.0, repetition_window=2))
    said = [one(logits(5.0, 4.0, 3.0), sampler.params, sampler=sampler) for _ in range(4)]
    assert said == [0, 1, 2, 0]


def test_penalty_counts_a_token_once_however_often_it_was_said() -> None:
    sampler = Sampler(DecodeParams(repetition_penalty=1.5))
    for _ in range(3):
        assert one(logits(9.0, 1.0), sampler.params, sampler=sampler) == 0
    assert one(logits(3.0, 2.1), sampler.params, sampler=sampler) == 1
    assert one(logits(3.3, 0.0), sampler.params, sampler=sampler) == 0


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, [0]), (0.6, [0, 1]), (0.0, [0, 1, 2]), (1.0, [0, 1, 2])])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: list[int]) -> None:
    row = mx.log(mx.array([0.5, 0.3, 0.2]))
    assert [i for i, v in enumerate(keep_top(row, 0, top_p).tolist()) if v > -np.inf] == kept


def test_top_p_puts_probabilities_back_at_their_own_tokens() -> None:
    row = mx.log(mx.array([0.1, 0.6, 0.3]))
    assert [i for i, v in enumerate(keep_top(row, 0, 0.7).tolist()) if v > -np.inf] == [1, 2]


def test_top_k() -> None:
    assert [i for i, v in enumerate(keep_top(mx.array([0.1, 0.6, 0.3]), 2, 0.0).tolist()) if v > -np.inf] == [1, 2]


@pytest.mark.parametrize(
    ("history", "size", "ends"),
    [
        ([1, 2, 3, 1, 2], 3, [3]),
        ([1, 2], 3, []),
        ([5, 5], 2, [5]),
        ([1, 2, 1, 3, 1], 2, [2, 3]),
        ([4, 4], 1, [4]),
        ([], 1, []),
    ],
)
def test_ngrams_that_would_repeat(history: list[int], size: int, ends: list[int]) -> None:
    assert repeated_ngram_ends(history, size) == ends


def banned_by_upstream(ids: list[int], size: int, window: int, whitelist: set[int]) -> set[int]:
    """DeepSeek-OCR's NoRepeatNGramLogitsProcessor, as its description has it."""
    if len(ids) < size:
        return set()
    prefix = tuple(ids[-(size - 1) :])
    found = set()
    for start in range(max(0, len(ids) - window), len(ids) - size + 1):
        ngram = tuple(ids[start : start + size])
        if ngram[:-1] == prefix:
            found.add(ngram[-1])
    return found - whitelist


def test_ngrams_in_a_window_are_banned_as_upstream_bans_them() -> None:
    random = np.random.default_rng(3)
    outcomes = set()
    for _ in range(300):
        history = random.integers(0, 3, random.integers(0, 30)).tolist()
        size, window = int(random.integers(2, 5)), int(random.integers(1, 30))
        banned = banned_by_upstream(history, size, window, {2})
        outcomes.add(len(banned))
        assert set(repeated_ngram_ends(history, size, window)) - {2} == banned
        params = DecodeParams(no_repeat_ngram=size, ngram_window=window, ngram_whitelist=(2,))
        logits = mx.array([3.0, 2.0, 1.0, 0.0])
        expected = min(set(range(4)) - banned)
        assert Sampler(params).choose(logits, history).item() == expected
    assert outcomes == {0, 1, 2}


def test_a_sampler_that_is_held_to_a_history_penalises_its_tokens() -> None:
    sampler = Sampler(DecodeParams(repetition_penalty=2.0, repetition_window=2))
    assert one(logits(3.0, 2.0, 1.0), sampler.params, sampler=sampler) == 0
    sampler.hold_to(sampler.params, None, (0, 1, 1))
    assert one(logits(3.0, 2.9, 1.0), sampler.params, sampler=sampler) == 0, "the window holds token 1 alone"
    sampler.hold_to(DecodeParams(), None, (0, 1, 1))
    assert one(logits(3.0, 2.9, 1.0), sampler.params, sampler=sampler) == 0 and sampler.plain
    sampler.hold_to(DecodeParams(repetition_penalty=2.0), None, (0,))
    assert one(logits(3.0, 2.0, 1.0), sampler.params, sampler=sampler) == 1
