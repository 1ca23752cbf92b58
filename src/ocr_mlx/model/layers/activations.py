"""The activation functions that checkpoints name, under the names that config.json uses."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
from mlx import nn

from ocr_mlx.model.layers.host import Floats, elementwise, on_cpu

Activation = Callable[[mx.array], mx.array]


def activation(name: str) -> Activation:
    """The function of that name. Raises KeyError for a name that the family's config should have refused."""
    return _BY_NAME[name]


def activate(function: Activation, x: Floats) -> Floats:
    """The function of float32 `x` on a CPU, without mlx where there is a way."""
    on_host = _ON_HOST.get(function)
    if on_host is None:
        return np.asarray(function(mx.array(x)))
    out = np.empty_like(x)
    on_host(x, out)
    return out


def silu(x: mx.array) -> mx.array:
    """x times its logistic function. On a CPU numpy's exponential takes a tenth of mlx's time."""
    return elementwise(x, _silu_on_host) if _for_numpy(x) else nn.silu(x)


def _for_numpy(x: mx.array) -> bool:
    return x.dtype == mx.float32 and on_cpu()


def _silu_on_host(x: Floats, out: Floats) -> None:
    with np.errstate(over="ignore"):  # infinity is right: its inverse is 0
        np.negative(x, out=out)
        np.exp(out, out=out)
    out += 1
    np.divide(x, out, out=out)


def _quick_gelu_on_host(x: Floats, out: Floats) -> None:
    with np.errstate(over="ignore"):
        np.multiply(x, np.float32(-1.702), out=out)
        np.exp(out, out=out)
    out += 1
    np.divide(x, out, out=out)


def _gelu(x: mx.array) -> mx.array:
    """x times the normal distribution's integral, which on a CPU is a quotient of polynomials.

    The quotient is within 2e-7 of the integral in float32, as close as the error function gets, at a quarter of its time.
    """
    return elementwise(x, _gelu_on_host) if _for_numpy(x) else nn.gelu(x)


def _gelu_on_host(x: Floats, out: Floats) -> None:
    inside = np.minimum(x, np.float32(_FLAT))
    np.maximum(inside, np.float32(-_FLAT), out=inside)
    square = inside * inside
    _polynomial(square, _ABOVE, out)
    out *= inside
    out /= _polynomial(square, _BELOW, inside)
    out += np.float32(0.5)
    out *= x


def _polynomial(x: Floats, coefficients: tuple[float, ...], out: Floats) -> Floats:
    highest, *rest = (np.float32(coefficient) for coefficient in coefficients)
    np.multiply(x, highest, out=out)
    out += rest[0]
    for coefficient in rest[1:]:
        out *= x
        out += coefficient
    return out


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
    return elementwise(x, _quick_gelu_on_host) if _for_numpy(x) else x * mx.sigmoid(1.702 * x)


_ON_HOST: dict[Activation, Callable[[Floats, Floats], None]] = {
    silu: _silu_on_host,
    _gelu: _gelu_on_host,
    _quick_gelu: _quick_gelu_on_host,
}
_BY_NAME: dict[str, Activation] = {
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "quick_gelu": _quick_gelu,
    "relu": nn.relu,
    "silu": silu,
    "swish": silu,
    "tanh": mx.tanh,
}
