"""MBart's step through numpy against its way through mlx."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from ocr_mlx.model.families.nougat import decoder_step
from ocr_mlx.model.families.nougat.config import DecoderConfig
from ocr_mlx.model.families.nougat.decoder import KeysValues, MBartForCausalLM
from ocr_mlx.model.layers.few_rows import FewRowsLinear, prefer_few_rows
from ocr_mlx.model.layers.host import on_cpu
from ocr_mlx.model.layers.kv_cache import BatchKVCache

pytestmark = pytest.mark.skipif(not on_cpu(), reason="only a CPU goes through numpy")

WIDTH, CELLS, LAYERS, WORDS = 24, 70, 2, 60


def numbers(seed: int, *shape: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape, np.float32))


def made(activation: str = "gelu") -> MBartForCausalLM:
    config = DecoderConfig(
        vocab_size=WORDS,
        d_model=WIDTH,
        decoder_layers=LAYERS,
        decoder_attention_heads=4,
        decoder_ffn_dim=50,
        max_position_embeddings=400,
        activation_function=activation,
        scale_embedding=True,
        tie_word_embeddings=False,
    )
    graph = MBartForCausalLM(config)
    norms = [norm for norm in graph.modules() if isinstance(norm, nn.LayerNorm)]
    for seed, norm in enumerate(norms):  # norms of ones and zeros would prove nothing
        norm.weight, norm.bias = 1 + numbers(seed, WIDTH) / 4, numbers(seed + 100, WIDTH) / 4
    prefer_few_rows(graph)
    mx.eval(graph.parameters())
    return graph


def held(graph: MBartForCausalLM, lengths: Sequence[int]) -> tuple[list[KeysValues], BatchKVCache]:
    """Pictures, and a cache of rows of these lengths, the same ones every time."""
    caches = []
    for row, length in enumerate(lengths):
        cache = BatchKVCache(LAYERS, 1)
        words = mx.array(np.random.default_rng(row).integers(0, WORDS, (1, length)))
        graph(words, graph.pictures(numbers(row, 1, CELLS, WIDTH)), cache)
        caches.append(cache)
    for other in caches[1:]:
        caches[0].merge(other)
    encoded = mx.concatenate([numbers(row, 1, CELLS, WIDTH) for row in range(len(lengths))])
    return graph.pictures(encoded), caches[0]


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
@pytest.mark.parametrize(("lengths", "count"), [([30], 1), ([300], 4), ([20, 20], 1), ([7, 255, 90], 3)])
def test_a_step_is_the_same_both_ways(
    activation: str, lengths: list[int], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, found = made(activation), []
    words = mx.array(np.random.default_rng(5).integers(0, WORDS, (len(lengths), count)))
    for way in (decoder_step.fits, lambda *_: False):
        state = held(graph, lengths)
        monkeypatch.setattr(decoder_step, "fits", way)
        found.append(np.array(mx.concatenate([graph(words, *state), graph(words[:, :1], *state)], axis=1)))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=2e-5)


def test_a_row_is_to_the_bit_the_same_whoever_stands_beside_it() -> None:
    graph = made()
    first, others = held(graph, [70, 150, 30]), held(graph, [70, 2, 70])
    among = np.array(graph(mx.array([[4], [9], [7]]), *first))
    np.testing.assert_array_equal(among[0], np.array(graph(mx.array([[4], [1], [1]]), *others))[0])


def test_a_step_hands_nothing_to_mlx_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it did, a step would be right and slow."""
    graph = made()
    state = held(graph, [20, 30])
    monkeypatch.setattr(nn.LayerNorm, "__call__", lambda *_: pytest.fail("went through mlx"))
    seen = []
    monkeypatch.setattr(FewRowsLinear, "__call__", lambda layer, x: seen.append(layer) or x)
    graph(mx.array([[1], [2]]), *state)
    assert seen == [graph.lm_head]


def test_layers_in_half_precision_go_through_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = made()
    layer = graph.model.decoder.layers[1]
    layer.encoder_attn.q_proj.weight = layer.encoder_attn.q_proj.weight.astype(mx.float16)
    monkeypatch.setattr(decoder_step, "step", lambda *_: pytest.fail("went through numpy"))
    mx.eval(graph(mx.array([[1]]), *held(graph, [2])))


def test_numbers_out_of_all_measure_come_out_without_a_warning() -> None:
    graph = made()
    norm = graph.model.decoder.layernorm_embedding
    for value in (mx.nan, mx.inf, 1e30):
        norm.weight = mx.full((WIDTH,), value)
        assert graph(mx.array([[1]]), *held(graph, [5])).shape == (1, 1, WORDS)
