"""The batched cache against rows kept one by one as plain lists."""

from __future__ import annotations

import random

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.model.layers.host import on_cpu
from ocr_mlx.model.layers.kv_cache import STEP, BatchKVCache
from ocr_mlx.model.layers.reach import Reach

LAYERS, HEADS, SIZE = 2, 2, 4


class Plain:
    """What the cache must be worth: for each row its tokens' keys; values are their negatives, layers add 100."""

    def __init__(self, rows: int) -> None:
        self.rows: list[list[float]] = [[] for _ in range(rows)]
        self.cache = BatchKVCache(LAYERS, rows)
        self.next = 1.0

    def append(self, count: int, on_host: bool = False) -> None:
        fresh = np.arange(self.next, self.next + len(self.rows) * count, dtype=np.float32).reshape(-1, count)
        self.next += fresh.size
        for row, tokens in zip(self.rows, fresh, strict=True):
            row.extend(tokens.tolist())
        keys = mx.broadcast_to(mx.array(fresh)[:, None, :, None], (len(self.rows), HEADS, count, SIZE))
        for layer in range(LAYERS):
            if on_host:
                seen = self.cache.append_on_host(layer, np.array(keys + 100 * layer), np.array(-keys))
            else:
                seen = self.cache.append(layer, keys + 100 * layer, -keys)
        assert seen[0].shape == (len(self.rows), HEADS, max(self.cache.lengths) + count, SIZE)
        self.cache.advance(count)

    def check(self) -> None:
        assert self.cache.lengths == [len(row) for row in self.rows]
        keys = [np.array(array[:, 0, :, 0]) for array in self.cache.arrays()]
        for index, row in enumerate(self.rows):
            for layer in range(LAYERS):
                assert keys[layer][index, : len(row)].tolist() == [value + 100 * layer for value in row]
                assert keys[LAYERS + layer][index, : len(row)].tolist() == [-value for value in row]


def test_random_histories_match_plain_lists() -> None:
    numbers = random.Random(3)
    for _ in range(25):
        plain = Plain(numbers.randint(1, 3))
        for _ in range(12):
            change(plain, numbers)
            plain.check()


def change(plain: Plain, numbers: random.Random) -> None:
    """One random step: append, trim, keep or merge."""
    kind = numbers.choice(["append", "append", "trim", "keep", "merge"])
    if kind == "append" or not min(plain.cache.lengths):
        plain.append(numbers.choice([1, 1, 2, 5, 70]), on_host=on_cpu() and numbers.random() < 0.5)
    elif kind == "trim":
        counts = [numbers.randint(0, min(3, len(row))) for row in plain.rows]
        plain.cache.trim(counts)
        plain.rows = [row[: len(row) - count] for row, count in zip(plain.rows, counts, strict=True)]
    elif kind == "keep":
        rows = numbers.choices(range(len(plain.rows)), k=numbers.randint(1, min(len(plain.rows) + 1, 5)))
        plain.cache.keep(rows)
        plain.rows = [list(plain.rows[row]) for row in rows]
    else:
        other = Plain(numbers.randint(1, 2))
        other.append(numbers.choice([1, 4, 300]))
        plain.cache.merge(other.cache)
        plain.rows += other.rows


def test_grows_in_steps_and_keeps_what_it_holds() -> None:
    plain = Plain(2)
    for count in (STEP - 1, 1, 1, STEP * 2):
        plain.append(count)
        plain.check()
    assert plain.cache.arrays()[0].shape[2] == 4 * STEP
    assert plain.cache.nbytes == LAYERS * 2 * 2 * HEADS * 4 * STEP * SIZE * 4


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("behind", [0, 2])
def test_steps_write_in_place(behind: int, on_host: bool) -> None:
    """Whether rows are of one length or not, a step copies nothing of what is held."""
    if on_host and not on_cpu():
        pytest.skip("only a CPU goes through numpy")
    plain = Plain(1)
    plain.append(5)
    other = Plain(1)
    other.append(5 - behind)
    plain.cache.merge(other.cache)
    plain.rows += other.rows
    plain.append(1, on_host)
    mx.eval(plain.cache.arrays())
    held = plain.cache.nbytes
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(50):
        plain.append(1, on_host)
        mx.eval(plain.cache.arrays())
    assert mx.get_active_memory() <= before + held // 8
    assert mx.get_peak_memory() <= before + held // 8
    plain.check()


@pytest.mark.skipif(not on_cpu(), reason="only a CPU goes through numpy")
def test_rows_taken_before_a_write_do_not_see_it() -> None:
    plain = Plain(2)
    plain.append(3)
    taken = plain.cache.arrays()[0]
    plain.cache.keep([1, 0])
    fresh = np.zeros((2, HEADS, 1, SIZE), np.float32)
    plain.cache.trim([3, 3])
    for layer in range(LAYERS):
        plain.cache.append_on_host(layer, fresh, fresh)
    assert np.array(taken[:, 0, 0, 0]).all()
    assert not np.array(plain.cache.arrays()[0][:, 0, 0, 0]).any()


def test_no_mask_for_rows_of_one_length() -> None:
    plain = Plain(2)
    plain.append(3)
    assert plain.cache.mask(1) is None
    assert plain.cache.mask(4) == "causal"


def test_a_reach_ends_with_the_row_and_hides_the_future() -> None:
    plain = ragged(3, 1)
    one, two = plain.cache.mask(1), plain.cache.mask(2)
    assert isinstance(one, Reach) and isinstance(two, Reach)
    assert (one.stops, two.stops) == ([4, 2], [5, 3])
    assert one.array()[:, 0, 0].tolist() == [[True] * 4, [True, True, False, False]]
    assert two.array()[0, 0].tolist() == [[True] * 4 + [False], [True] * 5]
    assert two.array()[1, 0].tolist() == [[True, True, False, False, False], [True, True, True, False, False]]


def test_trimmed_rows_of_one_length_need_no_mask_again() -> None:
    plain = ragged(3, 1)
    plain.cache.trim([2, 0])
    assert plain.cache.lengths == [1, 1]
    assert plain.cache.mask(1) is None


def test_positions_are_the_rows_own() -> None:
    assert ragged(3, 1).cache.positions(2).tolist() == [[3, 4], [1, 2]]


def test_keep_gives_back_what_no_row_needs() -> None:
    plain = ragged(STEP + 40, 2)
    before = plain.cache.nbytes
    plain.cache.keep([1])
    assert plain.cache.lengths == [2]
    assert plain.cache.nbytes == before // 4


def test_rows_that_keep_named_twice_go_their_own_ways() -> None:
    plain = ragged(3, 1)
    plain.cache.keep([1, 0, 1])
    plain.rows = [list(plain.rows[row]) for row in (1, 0, 1)]
    plain.append(2)
    plain.check()
    assert plain.rows[0] != plain.rows[2]


def test_merge_hands_on_that_rows_stand_apart() -> None:
    one, two = BatchKVCache(LAYERS, 1), BatchKVCache(LAYERS, 1)
    two.apart = True
    one.merge(two)
    assert one.apart


def ragged(*lengths: int) -> Plain:
    """Rows of these lengths in one cache."""
    plain = Plain(1)
    plain.append(lengths[0])
    for length in lengths[1:]:
        other = Plain(1)
        other.append(length)
        plain.cache.merge(other.cache)
        plain.rows += other.rows
    return plain


@pytest.mark.parametrize("counts", [[1], [4, 0], [-1, 0], [0, 0, 0]])
def test_trim_refuses_impossible_counts(counts: list[int]) -> None:
    plain = Plain(2)
    plain.append(3)
    with pytest.raises(ValueError, match="trim needs"):
        plain.cache.trim(counts)
