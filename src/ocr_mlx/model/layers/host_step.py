"""A decode step's small operations through numpy, for few rows in float32 on a CPU.

Each operation of a graph that goes through mlx is handed to another thread and waited for, some hundred times in a step,
and for one row that takes longer than the operation. Here layers are given and return numpy's arrays, on views of the same
weights. The modules' own way through mlx stays the graph's definition: these functions compute the same but for rounding,
each row by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mlx.core as mx
import numpy as np
from mlx import nn
from numpy.typing import NDArray

from ocr_mlx.model.layers.few_rows import FewRowsLinear, product
from ocr_mlx.model.layers.host import Floats


def are_plain(modules: Iterable[nn.Module]) -> bool:
    """Whether numpy can stand in for all of these linear layers and norms: none packed, none in half precision."""
    return all(type(module) in _PLAIN and module.weight.dtype == mx.float32 for module in modules)


_PLAIN = (FewRowsLinear, nn.RMSNorm, nn.LayerNorm)


def linear(layer: nn.Module, x: Floats) -> Floats:
    """A `FewRowsLinear` of x [..., inputs]."""
    out = np.ascontiguousarray(product(x.reshape(-1, x.shape[-1]), np.asarray(layer.weight)))
    if "bias" in layer:
        out += np.asarray(layer.bias)
    return out.reshape(*x.shape[:-1], -1)


def rms_norm(norm: nn.Module, x: Floats) -> Floats:
    """An `nn.RMSNorm` of x [..., width]."""
    out: Floats = x * _inverse_root(x, norm.eps)
    out *= np.asarray(norm.weight)
    return out


def layer_norm(norm: nn.Module, x: Floats) -> Floats:
    """An `nn.LayerNorm` of x [..., width]."""
    out: Floats = x - x.mean(axis=-1, keepdims=True)
    out *= _inverse_root(out, norm.eps)
    out *= np.asarray(norm.weight)
    if "bias" in norm:
        out += np.asarray(norm.bias)
    return out


def _inverse_root(x: Floats, eps: float) -> Floats:
    """What the mean square of x [..., width] and `eps` makes of it, [..., 1]."""
    squares = np.add.reduce(x * x, axis=-1, keepdims=True)
    squares *= np.float32(1 / x.shape[-1])
    squares += np.float32(eps)
    return np.reciprocal(np.sqrt(squares, out=squares), out=squares)


class Turn:
    """Rotary positions of a step: row by row from its start on, `length` tokens."""

    def __init__(self, starts: Sequence[int], length: int, periods: NDArray[np.float32]) -> None:
        places = np.asarray(starts, np.float32)[:, None] + np.arange(length, dtype=np.float32)
        angles = places[:, None, :, None] * (np.float32(1) / periods)
        cos, sin = np.cos(angles), np.sin(angles)
        self._cos, self._sin = np.concatenate([cos, cos], axis=-1), np.concatenate([-sin, sin], axis=-1)
        self._half = len(periods)

    def __call__(self, x: Floats) -> Floats:
        """Turn x [rows, heads, length, size]."""
        across = np.concatenate([x[..., self._half :], x[..., : self._half]], axis=-1)
        across *= self._sin
        across += x * self._cos
        return across
