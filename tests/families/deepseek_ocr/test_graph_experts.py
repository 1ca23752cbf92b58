"""The mixture of experts alone: routing, the ways to compute it, and its packed form."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from ocr_mlx.model.families.deepseek_ocr import experts
from ocr_mlx.model.families.deepseek_ocr.config import MoeConfig
from ocr_mlx.model.families.deepseek_ocr.model import DeepseekModel, build
from tests.families import deepseek_checkpoint as checkpoint
from tests.families import deepseek_made as made
from tests.families import seeded

CASE = "graph-tiles"
WIDTH, TOKENS = 64, 40


@pytest.fixture(scope="module")
def layer() -> Any:
    graph: DeepseekModel = build(made.config_of(CASE))
    graph.load_weights(list(graph.sanitize(checkpoint.tensors_of(CASE)).items()))
    return graph.model.layers[-1].mlp


@pytest.fixture(scope="module")
def x() -> mx.array:
    return mx.array(seeded.normal("moe", (TOKENS, WIDTH), made.CASES[CASE].seed))


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return checkpoint.golden_of(CASE)


def test_router_chooses_as_upstream_and_does_not_make_whole(layer: Any, x: mx.array, golden: dict[str, Any]) -> None:
    ids, weights = (np.array(part) for part in layer.gate(x))
    order = ids.argsort(-1)
    np.testing.assert_array_equal(np.take_along_axis(ids, order, -1), golden["moe.ids"])
    found = np.take_along_axis(weights, order, -1)
    np.testing.assert_allclose(found, golden["moe.weights"], rtol=0, atol=1e-6)
    assert (found.sum(-1) < 0.999).any()


def test_router_decides_in_float32_whatever_the_model_is(layer: Any, x: mx.array) -> None:
    router, wide = experts.Router(12, WIDTH, 3), experts.Router(12, WIDTH, 3)
    router.weight = layer.gate.weight.astype(mx.bfloat16)
    wide.weight = router.weight.astype(mx.float32)
    half = x.astype(mx.bfloat16)
    ids, weights = router(half)
    expected_ids, expected = wide(half.astype(mx.float32))
    assert weights.dtype == mx.float32
    np.testing.assert_array_equal(np.array(ids), np.array(expected_ids))
    np.testing.assert_array_equal(np.array(weights), np.array(expected))


def test_layer_gives_what_upstream_gives(layer: Any, x: mx.array, golden: dict[str, Any]) -> None:
    np.testing.assert_allclose(np.array(layer(x[None])[0]), golden["moe.out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 21, 22, 31, 32, TOKENS])
def test_every_way_gives_what_each_token_gives_alone(
    layer: Any, x: mx.array, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few picks are taken as they come, more are sorted, many are looped over."""
    taken = []
    for way in ("_gather", "_loop"):
        original = getattr(experts.Experts, way)

        def watched(self: Any, *given: Any, original: Any = original, way: str = way, **named: Any) -> mx.array:
            taken.append((way, named.get("ordered", True)))
            return original(self, *given, **named)

        monkeypatch.setattr(experts.Experts, way, watched)
    alone = np.concatenate([np.array(layer(x[None, row : row + 1])[0]) for row in range(count)])
    assert set(taken) == {("_gather", False)}
    together = np.array(layer(x[None, :count])[0])
    picks = count * 3
    expected = ("_gather", False) if picks < 64 else ("_gather" if picks < 8 * 12 else "_loop", True)
    assert taken[-1] == expected
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_the_loop_skips_experts_without_tokens() -> None:
    stack = experts.Experts(9, 4, 4)
    x, ids = mx.ones((3, 4)), mx.array([2, 2, 7])
    assert stack._loop(x, ids).shape == (3, 4)


@pytest.mark.parametrize(("bits", "allowed"), [(8, 0.06), (4, 1.0)])
@pytest.mark.parametrize("count", [2, 25, TOKENS])
def test_packed_experts_are_near_on_every_way(layer: Any, x: mx.array, bits: int, allowed: float, count: int) -> None:
    config = MoeConfig(routed=12, shared=2, chosen=3, width=32, sparse=(True,))
    packed = experts.Moe(config, WIDTH)
    packed.update(layer.parameters())
    expected = np.array(packed(x[None, :count]))
    nn.quantize(packed, group_size=32, bits=bits)
    assert isinstance(packed.switch_mlp.up_proj, experts.QuantizedStacked)
    assert packed.switch_mlp.up_proj.weight.shape == (12, 32, WIDTH * bits // 32)
    found = np.array(packed(x[None, :count]))
    error = np.abs(found - expected).max()
    assert 0 < error < allowed


def test_a_packed_stack_is_each_expert_packed(layer: Any, x: mx.array) -> None:
    stack = layer.switch_mlp.down_proj
    packed = stack.to_quantized(group_size=32, bits=4)
    inner = x[:, :32]
    for expert in (0, 11):
        alone = mx.dequantize(*mx.quantize(stack.weight[expert], 32, 4), 32, 4)
        np.testing.assert_allclose(np.array(packed.one(inner, expert)), np.array(inner @ alone.T), rtol=0, atol=1e-4)
        ids = mx.full((TOKENS,), expert, dtype=mx.uint32)
        np.testing.assert_allclose(
            np.array(packed.gather(inner, ids, True)), np.array(inner @ alone.T), rtol=0, atol=1e-4
        )
