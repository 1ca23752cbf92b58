"""The shared decoder's step through numpy against its way through mlx."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from ocr_mlx.model.layers import decoder_step
from ocr_mlx.model.layers.decoder import MLP, Decoder, DecoderConfig, DecoderState
from ocr_mlx.model.layers.few_rows import MOST_ROWS, FewRowsLinear, prefer_few_rows
from ocr_mlx.model.layers.host import on_cpu

pytestmark = pytest.mark.skipif(not on_cpu(), reason="only a CPU goes through numpy")

WIDTH = 24
RANDOM = np.random.default_rng(11)


def numbers(*shape: int) -> mx.array:
    return mx.array(RANDOM.standard_normal(shape, np.float32))


def config(**changes: object) -> DecoderConfig:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    return DecoderConfig.read(sizes | {"vocab_size": 50, "max_position_embeddings": 900} | changes)


def made(config: DecoderConfig, **options: object) -> Decoder:
    decoder = Decoder(config, **options)
    for layer in decoder.layers:  # norms of ones would prove nothing
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight = 1 + numbers(WIDTH) / 4
    prefer_few_rows(decoder)
    mx.eval(decoder.parameters())
    return decoder


def held(decoder: Decoder, lengths: Sequence[int], shifts: Sequence[int] | None = None) -> DecoderState:
    """A state of rows of these lengths, the same one every time."""
    states = []
    for row, length in enumerate(lengths):
        state = decoder.new_state(1, None if shifts is None else [shifts[row]])
        decoder(mx.array(np.random.default_rng(row).standard_normal((1, length, WIDTH), np.float32)), state)
        states.append(state)
    for other in states[1:]:
        states[0].merge(other)
    return states[0]


def both(
    decoder: Decoder, lengths: Sequence[int], count: int, monkeypatch: pytest.MonkeyPatch, **options: object
) -> tuple[np.ndarray, np.ndarray]:
    """Two steps behind rows of these lengths, through numpy and through mlx."""
    x, y = numbers(len(lengths), count, WIDTH), numbers(len(lengths), 1, WIDTH)
    found = []
    for way in (decoder_step.fits, lambda *_: False):
        state = held(decoder, lengths, **options)
        monkeypatch.setattr(decoder_step, "fits", way)
        found.append(np.array(mx.concatenate([decoder(x, state), decoder(y, state)], axis=1)))
    return found[0], found[1]


@pytest.mark.parametrize(
    "changes", [{}, {"num_key_value_heads": 2, "qk_norm": True}, {"qkv_bias": True, "head_dim": 16}]
)
@pytest.mark.parametrize(("lengths", "count"), [([30], 1), ([300], 4), ([20, 20, 20], 1), ([7, 255, 90], 3)])
def test_a_step_is_the_same_both_ways(
    changes: dict[str, object], lengths: list[int], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    through_numpy, through_mlx = both(made(config(**changes)), lengths, count, monkeypatch)
    np.testing.assert_allclose(through_numpy, through_mlx, rtol=0, atol=2e-5)


def test_positions_may_be_ahead_of_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = made(config())
    through_numpy, through_mlx = both(decoder, [20, 30], 1, monkeypatch, shifts=[0, 400])
    np.testing.assert_allclose(through_numpy, through_mlx, rtol=0, atol=2e-5)


class Twice(nn.Module):
    """A feed-forward network of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MLP(WIDTH, 8)

    def __call__(self, x: mx.array) -> mx.array:
        assert x.ndim == 3
        return 2 * self.inner(x)


def test_a_layer_of_another_kind_computes_its_own_part(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = made(config(), mlp=lambda index: Twice() if index else MLP(WIDTH, 40))
    through_numpy, through_mlx = both(decoder, [20, 30], 2, monkeypatch)
    np.testing.assert_allclose(through_numpy, through_mlx, rtol=0, atol=2e-5)


def test_a_mask_hides_in_both_ways_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, x = made(config()), numbers(2, 1, WIDTH)
    found = []
    for way in (decoder_step.fits, lambda *_: False):
        state = held(decoder, [90, 40])
        monkeypatch.setattr(decoder_step, "fits", way)
        mask = state.cache.reach(1, mx.broadcast_to(mx.arange(91) % 3 > 0, (2, 1, 1, 91)))
        found.append(np.array(decoder(x, state, mask=mask)))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=2e-5)
    assert np.abs(found[0] - np.array(decoder(x, held(decoder, [90, 40])))).max() > 0.01


@pytest.mark.parametrize("count", [1, 3])
def test_a_row_is_to_the_bit_the_same_whoever_stands_beside_it(count: int) -> None:
    decoder, x = made(config(num_key_value_heads=2)), numbers(3, count, WIDTH)
    among_long = np.array(decoder(x, held(decoder, [70, 300, 200])))
    x[1:] = numbers(2, count, WIDTH)
    np.testing.assert_array_equal(among_long[0], np.array(decoder(x, held(decoder, [70, 1, 70])))[0])


def test_a_row_that_leaves_and_comes_back_to_mlx_keeps_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, x = made(config()), numbers(2, 1, WIDTH)
    state = held(decoder, [20, 70])
    decoder(x, state)
    state.keep([1, 0, 1])
    decoder(numbers(3, 1, WIDTH), state)
    state.trim([1, 1, 1])
    again = np.array(decoder(x[mx.array([1, 0, 1])], state))
    np.testing.assert_array_equal(again[0], again[2])
    monkeypatch.setattr(decoder_step, "fits", lambda *_: False)
    state = held(decoder, [20, 70])
    decoder(x, state)
    np.testing.assert_allclose(again[:2], np.array(decoder(x, state))[::-1], rtol=0, atol=2e-5)


def test_other_passes_go_through_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, packed = made(config()), Decoder(config(hidden_size=64, intermediate_size=64))
    nn.quantize(packed.layers[0], group_size=32)
    prefer_few_rows(packed)
    monkeypatch.setattr(decoder_step, "step", lambda *_: pytest.fail("went through numpy"))
    mx.eval(decoder(numbers(1, MOST_ROWS + 1, WIDTH), decoder.new_state(1)))
    mx.eval(decoder(numbers(1, 1, WIDTH), decoder.new_state(1), rotate=lambda x: x))
    mx.eval(decoder(numbers(1, 1, WIDTH).astype(mx.float16), decoder.new_state(1)))
    mx.eval(packed(numbers(1, 1, 64), packed.new_state(1)))


@pytest.mark.parametrize("name", ["self_attn.o_proj", "mlp.up_proj", "input_layernorm", "post_attention_layernorm"])
def test_one_array_in_half_precision_keeps_the_step_in_mlx(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = made(config())
    module = dict(decoder.layers[1].named_modules())[name]
    module.weight = module.weight.astype(mx.bfloat16)
    monkeypatch.setattr(decoder_step, "step", lambda *_: pytest.fail("went through numpy"))
    mx.eval(decoder(numbers(1, 1, WIDTH), decoder.new_state(1)))


def test_a_step_hands_nothing_to_mlx_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it did, a step would be right and slow."""
    decoder = made(config(num_key_value_heads=2, qk_norm=True, qkv_bias=True))
    state = held(decoder, [20, 30])
    for kind in (nn.RMSNorm, FewRowsLinear, MLP):
        monkeypatch.setattr(kind, "__call__", lambda *_: pytest.fail("went through mlx"))
    assert decoder(numbers(2, 1, WIDTH), state).shape == (2, 1, WIDTH)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_numbers_out_of_all_measure_come_out_without_a_warning(value: float) -> None:
    decoder = made(config())
    assert decoder(mx.full((1, 1, WIDTH), value), held(decoder, [5])).shape == (1, 1, WIDTH)
