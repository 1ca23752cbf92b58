"""CLIP-L as DeepSeek-OCR uses it: SAM's features are its patches, and its own patch convolution is left out.

Source: `deepencoder.py` of the published code, `UnlimitedOcrVisionEncoder` of transformers 5.23.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from ocr_mlx.model.families.deepseek_ocr.config import ClipConfig
from ocr_mlx.model.layers.activations import activation
from ocr_mlx.model.layers.attention import attend
from ocr_mlx.model.layers.resample import resample_matrix


class Embeddings(nn.Module):
    """The class vector before the patches, and everyone's position."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.class_embedding = mx.zeros((config.width,))
        self.position_embedding = nn.Embedding(config.grid**2 + 1, config.width)
        self._grid = config.grid

    def __call__(self, patches: mx.array) -> mx.array:
        """[pictures, side * side + 1, width] of patches [pictures, side, side, width]."""
        count, side, _, width = patches.shape
        first = mx.broadcast_to(self.class_embedding, (count, 1, width))
        return mx.concatenate([first, patches.reshape(count, side * side, width)], axis=1) + self.positions(side)

    def positions(self, side: int) -> mx.array:
        """The table [side * side + 1, width], its patches resampled for grids that it is not made for."""
        table = self.position_embedding.weight
        if side == self._grid:
            return table
        matrix = mx.array(resample_matrix(self._grid, side, "bicubic", antialias=True))
        grid = table[1:].reshape(self._grid, self._grid, -1).astype(mx.float32)
        rows = mx.tensordot(matrix, grid, axes=[[1], [0]])
        both = mx.tensordot(matrix, rows, axes=[[1], [1]]).swapaxes(0, 1)
        return mx.concatenate([table[:1], both.reshape(side * side, -1).astype(table.dtype)])


class Attention(nn.Module):
    """Everyone looks at everyone."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self._heads = config.heads
        self.qkv_proj = nn.Linear(config.width, 3 * config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [pictures, length, width]."""
        count, length, width = x.shape
        parts = self.qkv_proj(x).reshape(count, length, 3, self._heads, -1)
        queries, keys, values = (parts[:, :, part].swapaxes(1, 2) for part in range(3))
        mixed = attend(queries, keys, values, scale=queries.shape[-1] ** -0.5)
        out: mx.array = self.out_proj(mixed.swapaxes(1, 2).reshape(count, length, width))
        return out


class Mlp(nn.Module):
    """Two layers with the quick GELU between them."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)
        self._activation = activation("quick_gelu")

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., width]."""
        out: mx.array = self.fc2(self._activation(self.fc1(x)))
        return out


class Layer(nn.Module):
    """Attention and a feed-forward network, each behind a norm and added to its input."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.eps)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.eps)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [pictures, length, width]."""
        x = x + self.self_attn(self.layer_norm1(x))
        out: mx.array = x + self.mlp(self.layer_norm2(x))
        return out


class Transformer(nn.Module):
    """The level that the checkpoint's names have above the layers."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.layers = [Layer(config) for _ in range(config.layers)]


class Clip(nn.Module):
    """The tower, without a norm at its end."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.width, eps=config.eps)
        self.transformer = Transformer(config)

    def __call__(self, patches: mx.array) -> mx.array:
        """Read patches [pictures, side, side, width] into [pictures, side * side, width], the class vector left out."""
        x: mx.array = self.pre_layrnorm(self.embeddings(patches))
        for layer in self.transformer.layers:
            x = layer(x)
        return x[:, 1:]
