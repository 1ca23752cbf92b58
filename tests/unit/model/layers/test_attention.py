from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.model.layers import attention
from ocr_mlx.model.layers.attention import Mask, attend


def made(length: int, keys: int) -> tuple[mx.array, mx.array, mx.array]:
    random = np.random.default_rng(5)
    shapes = ((2, 4, length, 8), (2, 2, keys, 8), (2, 2, keys, 8))
    queries, seen, values = (mx.array(random.standard_normal(shape, np.float32)) for shape in shapes)
    return queries, seen, values


def masks(length: int, keys: int) -> dict[str, Mask]:
    random = np.random.default_rng(6)
    return {
        "none": None,
        "causal": "causal",
        "bias": mx.array(random.standard_normal((2, 4, length, keys), np.float32)),
        "shared bias": mx.array(random.standard_normal((1, 4, length, keys), np.float32)),
        "columns": mx.array(random.random((2, 1, 1, keys)) > 0.3),
    }


@pytest.mark.parametrize("name", ["none", "causal", "bias", "columns", "shared bias"])
@pytest.mark.parametrize(("length", "keys"), [(1, 1), (1, 50), (1, 64), (1, 150), (4, 9), (4, 150), (37, 37), (37, 50)])
@pytest.mark.parametrize("few", [1, 1 << 18])
def test_rows_with_all_their_heads_give_what_all_at_once_give(
    name: str, length: int, keys: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, seen, values = made(length, keys)
    mask = masks(length, keys)[name]
    whole = np.array(mx.fast.scaled_dot_product_attention(queries, seen, values, scale=0.3, mask=mask))
    monkeypatch.setattr(attention, "on_cpu", lambda: True)
    monkeypatch.setattr(attention, "_FEW", few)
    monkeypatch.setattr(attention, "_STEP", 37)
    np.testing.assert_allclose(np.array(attend(queries, seen, values, scale=0.3, mask=mask)), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["none", "causal", "bias", "columns"])
@pytest.mark.parametrize("keys", [37, 50])
def test_blocks_of_queries_give_what_all_at_once_give(name: str, keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, seen, values = made(37, keys)
    mask = masks(37, keys)[name]
    whole = np.array(mx.fast.scaled_dot_product_attention(queries, seen, values, scale=0.3, mask=mask))
    monkeypatch.setattr(attention, "on_cpu", lambda: True)
    monkeypatch.setattr(attention, "_FEW", 0)
    monkeypatch.setattr(attention, "_BLOCK", keys * 5)
    np.testing.assert_allclose(np.array(attend(queries, seen, values, scale=0.3, mask=mask)), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [1, 3])
def test_a_heads_result_is_the_same_in_any_share_of_the_work(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, seen, values = (np.array(part) for part in made(length, 150))
    whole = attention.attend_on_host(queries, seen, values, "causal", [150, 70])
    monkeypatch.setattr(attention, "_WORTH_PARTS", 0)
    monkeypatch.setattr(attention, "_WORTH_THREADS", 0)
    monkeypatch.setattr(attention, "hands", lambda: 2)
    for row, stop in enumerate([150, 70]):
        own = queries[row : row + 1], seen[row : row + 1, :, :stop], values[row : row + 1, :, :stop]
        np.testing.assert_array_equal(attention.attend_on_host(*own, "causal")[0], whole[row])
