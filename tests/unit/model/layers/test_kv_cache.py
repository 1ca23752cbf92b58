"""The batched cache against rows kept one by one as plain lists."""

from __future__ import annotations

import random

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.model.layers.kv_cache import STEP, BatchKVCache

LAYERS, HEADS, SIZE = 2, 2, 4


class Plain:
    """What the cache must be worth: for each row its tokens' keys; values are their negatives, layers add 100."""

    def __init__(self, rows: int) -> None:
        self.rows: list[list[float]] = [[] for _ in range(rows)]
        self.cache = BatchKVCache(LAYERS, rows)
        self.next = 1.0

    def append(self, count: int) -> None:
        fresh = np.arange(self.next, self.next + len(self.rows) * count, dtype=np.float32).reshape(-1, count)
        self.next += fresh.size
        for row, tokens in zip(self.rows, fresh, strict=True):
            row.extend(tokens.tolist())
        keys = mx.broadcast_to(mx.array(fresh)[:, None, :, None], (len(self.rows), HEADS, count, SIZE))
        for layer in range(LAYERS):
            seen = self.cache.append(layer, keys + 100 * layer, -keys)
        assert seen[0].shape == (len(self.rows), HEADS, self.cache.end + count, SIZE)
        self.cache.advance(count)

    def check(self) -> None:
        assert self.cache.lengths == [len(row) for row in self.rows]
        assert min(self.cache.left, default=0) == 0
        keys = [np.array(array[:, 0, :, 0]) for array in self.cache.arrays()]
        for index, (row, left) in enumerate(zip(self.rows, self.cache.left, strict=True)):
            for layer in range(LAYERS):
                assert keys[layer][index, left : self.cache.end].tolist() == [value + 100 * layer for value in row]
                assert keys[LAYERS + layer][index, left : self.cache.end].tolist() == [-value for value in row]


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
    if kind == "append" or not plain.cache.end:
        plain.append(numbers.choice([1, 1, 2, 5, 70]))
    elif kind == "trim":
        counts = [numbers.randint(0, min(3, len(row) - 1)) for row in plain.rows]
        plain.cache.trim(counts)
        plain.rows = [row[: len(row) - count] for row, count in zip(plain.rows, counts, strict=True)]
    elif kind == "keep":
        rows = numbers.sample(range(len(plain.rows)), numbers.randint(1, len(plain.rows)))
        plain.cache.keep(rows)
        plain.rows = [plain.rows[row] for row in rows]
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


def test_steps_write_in_place() -> None:
    plain = Plain(1)
    plain.append(3)
    mx.eval(plain.cache.arrays())
    before = mx.get_active_memory()
    for _ in range(50):
        plain.append(1)
        mx.eval(plain.cache.arrays())
    assert mx.get_active_memory() <= before + plain.cache.nbytes


def test_no_mask_without_padding() -> None:
    plain = Plain(2)
    plain.append(3)
    assert plain.cache.mask(1) is None
    assert plain.cache.mask(4) == "causal"


def test_mask_hides_padding_and_the_future() -> None:
    plain, other = Plain(1), Plain(1)
    plain.append(3)
    other.append(1)
    plain.cache.merge(other.cache)
    one, two = plain.cache.mask(1), plain.cache.mask(2)
    assert isinstance(one, mx.array) and isinstance(two, mx.array)
    assert one[:, 0, 0].tolist() == [[True] * 4, [False, False, True, True]]
    assert two[0, 0].tolist() == [[True] * 4 + [False], [True] * 5]
    assert two[1, 0].tolist() == [[False, False, True, True, False], [False, False, True, True, True]]


def test_positions_are_the_rows_own() -> None:
    plain, other = Plain(1), Plain(1)
    plain.append(3)
    other.append(1)
    plain.cache.merge(other.cache)
    assert plain.cache.positions(2).tolist() == [[3, 4], [1, 2]]


def test_keep_drops_the_padding_that_is_left_to_all() -> None:
    plain, other = Plain(1), Plain(1)
    plain.append(40)
    other.append(2)
    plain.cache.merge(other.cache)
    plain.cache.keep([1])
    assert plain.cache.end == 2
    assert plain.cache.left == [0]


@pytest.mark.parametrize("counts", [[1], [4, 0], [-1, 0], [0, 0, 0]])
def test_trim_refuses_impossible_counts(counts: list[int]) -> None:
    plain = Plain(2)
    plain.append(3)
    with pytest.raises(ValueError, match="trim needs"):
        plain.cache.trim(counts)
