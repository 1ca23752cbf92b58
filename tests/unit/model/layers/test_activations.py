"""Activation functions against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.model.families.nougat.config import ACTIVATIONS
from ocr_mlx.model.layers.activations import activation, on_cpu

X = np.concatenate([np.linspace(-8, 8, 4001), [-1e4, -30.0, 30.0, 1e4]])


def integral(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


EXACT: dict[str, Callable[[float], float]] = {
    "gelu": lambda x: x * integral(x),
    "gelu_python": lambda x: x * integral(x),
    "gelu_new": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_fast": lambda x: 0.5 * x * (1 + math.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "gelu_pytorch_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + math.exp(min(700.0, -1.702 * x))),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(min(700.0, -x))),
    "swish": lambda x: x / (1 + math.exp(min(700.0, -x))),
    "tanh": math.tanh,
}


@pytest.mark.parametrize("name", sorted(EXACT))
def test_each_is_its_definition(name: str) -> None:
    found = np.array(activation(name)(mx.array(X.astype(np.float32))))
    expected = np.array([EXACT[name](float(np.float32(x))) for x in X])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6)


def test_configs_may_name_exactly_these() -> None:
    assert set(EXACT) == ACTIVATIONS


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_stays_half(dtype: mx.Dtype) -> None:
    values = activation("gelu")(mx.array([-9.0, -1.0, 0.0, 1.0, 9.0], dtype=dtype))
    assert values.dtype == dtype
    np.testing.assert_allclose(np.array(values.astype(mx.float32)), [0, -0.1587, 0, 0.8413, 9], atol=5e-3)


def test_the_device_is_known() -> None:
    assert on_cpu() == (mx.default_device() == mx.cpu)
