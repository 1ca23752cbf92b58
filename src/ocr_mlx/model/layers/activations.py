"""The activation functions that checkpoints name, under the names that config.json uses."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
from mlx import nn

Activation = Callable[[mx.array], mx.array]


def activation(name: str) -> Activation:
    """The function of that name. Raises KeyError for a name that the family's config should have refused."""
    return _BY_NAME[name]


def on_cpu() -> bool:
    """Whether arrays are computed on the CPU, where MLX's transcendental functions are slow."""
    return bool(mx.default_device() == mx.cpu)


def _gelu(x: mx.array) -> mx.array:
    """x times the normal distribution's integral, which on a CPU is a quotient of polynomials.

    The quotient is within 2e-7 of the integral in float32, as close as the error function gets, at a quarter of its time.
    """
    if x.dtype != mx.float32 or not on_cpu():
        return nn.gelu(x)
    inside = mx.clip(x, -_FLAT, _FLAT)
    square = inside * inside
    return x * (inside * _polynomial(square, _ABOVE) / _polynomial(square, _BELOW) + 0.5)


def _polynomial(x: mx.array, coefficients: tuple[float, ...]) -> mx.array:
    highest, *rest = coefficients
    value = x * highest + rest[0]
    for coefficient in rest[1:]:
        value = value * x + coefficient
    return value


_FLAT = 5.6
"""From here on the integral is 0 or 1 to float32's precision."""
_ABOVE = (
    2.2146624090169098e-08,
    6.356208814395359e-06,
    0.0001738215214572847,
    0.004707078915089369,
    0.034373361617326736,
    0.398942232131958,
)
_BELOW = (
    1.1802269455074565e-06,
    7.509194983867928e-05,
    0.001912812702357769,
    0.02893848530948162,
    0.2528269588947296,
    1.0,
)


def _tanh_gelu(x: mx.array) -> mx.array:
    return 0.5 * x * (1.0 + mx.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def _quick_gelu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(1.702 * x)


_BY_NAME: dict[str, Activation] = {
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "quick_gelu": _quick_gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": mx.tanh,
}
