"""Rows of different lengths against each row by itself."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.model.layers import reach
from ocr_mlx.model.layers.attention import attend
from ocr_mlx.model.layers.reach import Reach, attend_within

SIZE, HEADS, GROUPS = 8, 4, 2
STOPS = [9, 4, 40]


def normal(*shape: int) -> mx.array:
    return mx.array(np.random.default_rng(len(shape) + shape[2]).standard_normal(shape, dtype=np.float32))


def made(count: int, columns: int = max(STOPS)) -> tuple[mx.array, mx.array, mx.array]:
    rows = len(STOPS)
    queries = normal(rows, HEADS, count, SIZE)
    return queries, normal(rows, GROUPS, columns, SIZE), normal(rows, GROUPS, columns, SIZE) * 2


def alone(count: int, row: int) -> np.ndarray:
    queries, keys, values = (part[row : row + 1] for part in made(count))
    stop = STOPS[row]
    mask = "causal" if count > 1 else None
    return np.array(attend(queries, keys[:, :, :stop], values[:, :, :stop], scale=0.3, mask=mask))[0]


@pytest.mark.parametrize("count", [1, 3])
def test_each_row_is_to_the_bit_what_it_is_alone(count: int) -> None:
    found = attend_within(*made(count), scale=0.3, mask=Reach(STOPS, count, apart=True))
    for row in range(len(STOPS)):
        np.testing.assert_array_equal(np.array(found[row]), alone(count, row))


@pytest.mark.parametrize("count", [1, 3])
def test_all_rows_at_once_is_the_same_but_for_rounding(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "on_cpu", lambda: False)
    found = attend_within(*made(count), scale=0.3, mask=Reach(STOPS, count))
    for row in range(len(STOPS)):
        np.testing.assert_allclose(np.array(found[row]), alone(count, row), rtol=0, atol=1e-6)


@pytest.mark.parametrize("apart", [True, False])
def test_what_is_left_behind_a_row_is_never_seen(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "on_cpu", lambda: False)
    queries, keys, values = made(1)
    behind = (mx.arange(keys.shape[2]) >= mx.array(STOPS)[:, None])[:, None, :, None]
    mask = Reach(STOPS, 1, apart=apart)
    clean = attend_within(queries, keys, values, scale=0.3, mask=mask)
    dirty = attend_within(*(queries, mx.where(behind, 1e4, keys), mx.where(behind, -1e4, values)), scale=0.3, mask=mask)
    np.testing.assert_array_equal(np.array(clean), np.array(dirty))


def test_a_family_may_hide_more() -> None:
    count = 2
    own = mx.array(STOPS)[:, None, None, None] + mx.arange(-count, 0)[:, None]
    places = mx.arange(max(STOPS))
    seen = (places <= own) & (places > own - 3)
    whole = attend(*made(count), scale=0.3, mask=seen)
    found = attend_within(*made(count), scale=0.3, mask=Reach(STOPS, count, seen=seen, apart=True))
    np.testing.assert_allclose(np.array(found), np.array(whole), rtol=0, atol=1e-6)
    assert (
        np.abs(np.array(found) - np.array(attend_within(*made(count), scale=0.3, mask=Reach(STOPS, count)))).max() > 0.1
    )
