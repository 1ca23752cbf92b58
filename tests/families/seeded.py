"""Weights and pictures made from a seed alone, the same under torch and under MLX, so that goldens store results only.

numpy keeps the stream of PCG64 and of `standard_normal` stable between versions; every tensor has its own stream,
seeded by its name, so the order of the tensors does not matter.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


def normal(name: str, shape: Shape, seed: int) -> NDArray[np.float32]:
    """Standard normal numbers of this name and seed."""
    stream = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    return stream.standard_normal(shape, dtype=np.float32)


def weights(shapes: Iterable[tuple[str, Shape]], seed: int) -> dict[str, NDArray[np.float32]]:
    """Random weights that keep a deep graph lively: norms near one, small biases, matrices scaled by their fan-in."""
    return {name: _scaled(name, normal(name, tuple(shape), seed)) for name, shape in shapes}


def _scaled(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    if "norm" in name and name.endswith("weight"):
        return np.float32(1.0) + np.float32(0.1) * values
    if values.ndim == 1 or "bias_table" in name:
        return np.float32(0.1) * values
    if "embed_positions" in name or "position_embeddings" in name:
        return values
    if "embed" in name and values.ndim == 2:
        return np.float32(0.1) * values
    return values * np.float32(1.2 / np.sqrt(values[0].size))
