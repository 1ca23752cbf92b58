from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from ocr_mlx.model.layers import few_rows, host_step
from ocr_mlx.model.layers.activations import activate, activation
from ocr_mlx.model.layers.decoder import rope_periods
from ocr_mlx.model.layers.host import Floats

WIDTH = 48


def numbers(*shape: int) -> Floats:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


@pytest.mark.parametrize("kind", [nn.RMSNorm, nn.LayerNorm])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_norms_are_the_modules_own(kind: type[nn.Module], size: float) -> None:
    norm, x = kind(WIDTH, eps=1e-6), numbers(3, 2, WIDTH) * np.float32(size) + np.float32(size)
    for name in norm:
        norm[name] = mx.array(numbers(WIDTH))
    ours = host_step.rms_norm if kind is nn.RMSNorm else host_step.layer_norm
    np.testing.assert_allclose(ours(norm, x), np.array(norm(mx.array(x))), rtol=1e-4, atol=2e-5)


def test_a_norm_without_a_bias_adds_none() -> None:
    norm, x = nn.LayerNorm(WIDTH, bias=False), numbers(2, WIDTH)
    np.testing.assert_allclose(host_step.layer_norm(norm, x), np.array(norm(mx.array(x))), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 4)])
def test_a_linear_layer_gives_what_it_gives_itself(bias: bool, shape: tuple[int, int]) -> None:
    layer, x = few_rows.FewRowsLinear(nn.Linear(WIDTH, 30, bias=bias)), numbers(*shape, WIDTH)
    found = host_step.linear(layer, x)
    assert found.flags.c_contiguous and found.flags.writeable
    np.testing.assert_allclose(found, np.array(layer(mx.array(x))), rtol=0, atol=1e-5)


def test_rows_turn_as_mlx_turns_them() -> None:
    periods, x = rope_periods(16, 1e4), numbers(2, 3, 4, 16)
    found = host_step.Turn([5, 3000], 4, periods)(x)
    for row, start in enumerate([5, 3000]):
        expected = mx.fast.rope(
            mx.array(x[row : row + 1]),
            16,
            traditional=False,
            base=None,
            scale=1.0,
            offset=start,
            freqs=mx.array(periods),
        )
        np.testing.assert_allclose(found[row], np.array(expected[0]), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "quick_gelu", "relu", "silu", "tanh"])
def test_activations_are_the_same_for_numpys_arrays(name: str) -> None:
    function, x = activation(name), numbers(3, WIDTH) * 4
    np.testing.assert_allclose(activate(function, x), np.array(function(mx.array(x))), rtol=0, atol=1e-6)


def test_only_plain_layers_in_float32_are_computed_here() -> None:
    plain = [few_rows.FewRowsLinear(nn.Linear(32, 32)), nn.RMSNorm(8), nn.LayerNorm(8)]
    half = nn.RMSNorm(8)
    half.weight = half.weight.astype(mx.bfloat16)
    assert host_step.are_plain(plain)
    for other in (nn.Linear(32, 32), nn.QuantizedLinear(32, 32, group_size=32), half):
        assert not host_step.are_plain([*plain, other])
