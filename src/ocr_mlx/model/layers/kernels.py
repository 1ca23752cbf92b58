"""Kernels of convolutions: PyTorch has their channels second, MLX last."""

from __future__ import annotations

from typing import cast

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten


def channels_last(weights: dict[str, mx.array], graph: nn.Module) -> dict[str, mx.array]:
    """Kernels [out, channels, height, width] as [out, height, width, channels] where the graph has them so."""
    parameters = cast("list[tuple[str, mx.array]]", tree_flatten(graph.parameters()))
    wanted = {name: array.shape for name, array in parameters if array.ndim == 4}
    return {name: _turned(array, wanted.get(name)) for name, array in weights.items()}


def _turned(array: mx.array, wanted: tuple[int, ...] | None) -> mx.array:
    if wanted is None or array.ndim != 4 or array.shape == wanted:
        return array
    turned = array.transpose(0, 2, 3, 1)
    return turned if turned.shape == wanted else array
