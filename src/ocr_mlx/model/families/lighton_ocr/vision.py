"""The Pixtral tower: patches of a picture with two-dimensional rotary positions, each seeing all others of its picture.

Source: transformers 5.23, `models/pixtral/modeling_pixtral.py`.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from numpy.typing import NDArray

from ocr_mlx.model.families.lighton_ocr.config import VisionConfig
from ocr_mlx.model.layers.attention import attend
from ocr_mlx.model.layers.decoder import MLP

_EPS = 1e-5
Turn = tuple[mx.array, mx.array]
"""Cosines and sines of each patch's angles, [patches, head size]."""


class Attention(nn.Module):
    """Every patch looks at every patch of its picture."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def __call__(self, x: mx.array, turn: Turn) -> mx.array:
        """Map x [pictures, patches, width]."""
        rows, length, width = x.shape

        def split(part: mx.array) -> mx.array:
            return part.reshape(rows, length, self.heads, width // self.heads).swapaxes(1, 2)

        queries, keys = _turned(split(self.q_proj(x)), turn), _turned(split(self.k_proj(x)), turn)
        mixed = attend(queries, keys, split(self.v_proj(x)), scale=(width // self.heads) ** -0.5)
        out: mx.array = self.o_proj(mixed.swapaxes(1, 2).reshape(rows, length, width))
        return out


class Layer(nn.Module):
    """Attention and SwiGLU, each behind a norm and added to its input."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=_EPS)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.hidden_size, eps=_EPS)
        self.feed_forward = MLP(config.hidden_size, config.intermediate_size)

    def __call__(self, x: mx.array, turn: Turn) -> mx.array:
        """Map x [pictures, patches, width]."""
        x = x + self.attention(self.attention_norm(x), turn)
        out: mx.array = x + self.feed_forward(self.ffn_norm(x))
        return out


class Transformer(nn.Module):
    """The layers; no norm follows the last."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = [Layer(config) for _ in range(config.num_hidden_layers)]

    def __call__(self, x: mx.array, turn: Turn) -> mx.array:
        """Map x [pictures, patches, width]."""
        for layer in self.layers:
            x = layer(x, turn)
        return x


class PixtralVision(nn.Module):
    """Pixels to one vector per patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        patch, width = config.patch_size, config.hidden_size
        self.patch_conv = nn.Conv2d(config.num_channels, width, patch, stride=patch, bias=False)
        self.ln_pre = nn.RMSNorm(width, eps=_EPS)
        self.transformer = Transformer(config)
        self._size, self._theta = width // config.num_attention_heads, config.rope_theta

    def __call__(self, pixels: mx.array) -> mx.array:
        """Pixels [pictures, height, width, channels] to [pictures, rows, columns, hidden]; rests of a patch are left out."""
        patches = self.patch_conv(pixels.astype(self.patch_conv.weight.dtype))
        pictures, rows, columns, width = patches.shape
        turn = self._turn(rows, columns, patches.dtype)
        x = self.transformer(self.ln_pre(patches.reshape(pictures, rows * columns, width)), turn)
        return x.reshape(pictures, rows, columns, width)

    def _turn(self, rows: int, columns: int, dtype: mx.Dtype) -> Turn:
        angles = axial_angles(rows, columns, self._size, self._theta)
        return mx.array(np.cos(angles)).astype(dtype), mx.array(np.sin(angles)).astype(dtype)


def axial_angles(rows: int, columns: int, size: int, theta: float) -> NDArray[np.float32]:
    """By how much each patch's numbers turn, row-major, [rows * columns, size].

    Of the `size / 2` frequencies the even ones count rows, the odd ones columns; both halves of a head turn alike.
    """
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = np.float32(1) / np.asarray(np.float32(theta) ** exponents, dtype=np.float32)
    down = np.arange(rows, dtype=np.float32)[:, None] * frequencies[0::2]
    across = np.arange(columns, dtype=np.float32)[:, None] * frequencies[1::2]
    grid: list[NDArray[Any]] = [
        np.broadcast_to(down[:, None], (rows, columns, size // 4)),
        np.broadcast_to(across[None], (rows, columns, size // 4)),
    ]
    return np.concatenate(grid * 2, axis=-1).reshape(rows * columns, size)


def _turned(x: mx.array, turn: Turn) -> mx.array:
    """x [pictures, heads, patches, size] by its patches' angles, number i with number i + size / 2."""
    cosines, sines = turn
    first, second = mx.split(x, 2, axis=-1)
    return x * cosines + mx.concatenate([-second, first], axis=-1) * sines
