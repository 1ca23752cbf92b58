"""The DonutSwin encoder: windows of attention over a grid of patches, halved between stages.

Grids travel flat, [batch, rows * columns, width], with their (rows, columns) beside them.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from ocr_mlx.errors import UnsupportedArchitecture
from ocr_mlx.model.families.nougat.config import EncoderConfig
from ocr_mlx.model.families.nougat.windows import Geometries, Geometry, relative_index
from ocr_mlx.model.layers.activations import activation
from ocr_mlx.model.layers.attention import attend
from ocr_mlx.model.layers.host import on_cpu

Grid = tuple[int, int]
_CACHED = 1 << 20
"""Numbers that a CPU's cache holds through a chain of small operations."""


class PatchEmbeddings(nn.Module):
    """A convolution whose kernel is its stride, computed as one matrix product."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.projection = nn.Conv2d(
            config.num_channels, config.embed_dim, kernel_size=config.patch_size, stride=config.patch_size
        )

    def __call__(self, pixels: mx.array) -> tuple[mx.array, Grid]:
        """Read pixels [batch, height, width, channels], padded with zeros at the right and below to whole patches."""
        kernel = self.projection.weight
        width, high, wide, channels = kernel.shape
        batch, height, length, _ = pixels.shape
        pixels = mx.pad(pixels.astype(kernel.dtype), [(0, 0), (0, -height % high), (0, -length % wide), (0, 0)])
        rows, columns = pixels.shape[1] // high, pixels.shape[2] // wide
        patches = pixels.reshape(batch, rows, high, columns, wide, channels).swapaxes(2, 3)
        flat = patches.reshape(batch, rows * columns, high * wide * channels)
        return mx.addmm(self.projection.bias, flat, kernel.reshape(width, -1).T), (rows, columns)


class Embeddings(nn.Module):
    """Patches, their norm, and optionally a learned vector per place.

    Upstream lays out one row more than there are patches, the first for a class token that this encoder has not;
    its own forward cannot add such a table, so the rows are read as upstream's interpolation reads them.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.patch_embeddings = PatchEmbeddings(config)
        self.norm = nn.LayerNorm(config.embed_dim)
        self._grid = config.grid if config.use_absolute_embeddings else None
        if config.use_absolute_embeddings:
            rows, columns = config.grid
            self.position_embeddings = mx.zeros((1, rows * columns + 1, config.embed_dim))

    def __call__(self, pixels: mx.array) -> tuple[mx.array, Grid]:
        """Read pixels [batch, height, width, channels] into a grid."""
        x, grid = self.patch_embeddings(pixels)
        x = self.norm(x)
        if self._grid is None:
            return x, grid
        if grid != self._grid:
            raise UnsupportedArchitecture(
                f"The picture makes a grid of {grid}, the checkpoint's absolute positions are for {self._grid}.",
                hint="preprocessor_config.json and config.json of this checkpoint disagree about the picture's size.",
            )
        return x + self.position_embeddings[:, 1:], grid


class SelfAttention(nn.Module):
    """Attention inside windows, with a learned bias by relative position."""

    def __init__(self, config: EncoderConfig, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query = nn.Linear(width, width, bias=config.qkv_bias)
        self.key = nn.Linear(width, width, bias=config.qkv_bias)
        self.value = nn.Linear(width, width, bias=config.qkv_bias)
        self.relative_position_bias_table = mx.zeros(((2 * config.window_size - 1) ** 2, heads))
        self._bias = _BiasOf(config.window_size)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """Mix windows [batch * windows, cells, width]; `mask` [windows, 1, cells, cells]."""
        count, cells, width = x.shape
        q, k, v = (
            layer(x).reshape(count, cells, self.heads, -1).swapaxes(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        bias = self._bias.of(self.relative_position_bias_table)
        if mask is not None:
            bias = bias + mask.astype(bias.dtype)
            if count > mask.shape[0]:
                bias = mx.tile(bias, (count // mask.shape[0], 1, 1, 1))
        mixed = attend(q, k, v, scale=self.scale, mask=bias)
        return mixed.reshape(count, self.heads, cells, -1).swapaxes(1, 2).reshape(count, cells, width)


class _BiasOf:
    """The table's rows laid out for a window, [1, heads, cells, cells], made again only when the table changes."""

    def __init__(self, window: int) -> None:
        self._index = relative_index(window)
        self._table: mx.array | None = None
        self._laid_out: mx.array | None = None

    def of(self, table: mx.array) -> mx.array:
        """The bias for this table."""
        if self._laid_out is None or self._table is not table:
            self._table = table
            self._laid_out = mx.contiguous(table[mx.array(self._index)].transpose(2, 0, 1)[None])
        return self._laid_out


class Dense(nn.Module):
    """A linear layer under the name `dense`."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, out)

    def __call__(self, x: mx.array) -> mx.array:
        """Map the last axis."""
        return self.dense(x)


class Attention(nn.Module):
    """Window attention and the projection behind it."""

    def __init__(self, config: EncoderConfig, width: int, heads: int) -> None:
        super().__init__()
        self.self = SelfAttention(config, width, heads)
        self.output = Dense(width, width)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """Mix windows [batch * windows, cells, width]."""
        return self.output(self.self(x, mask))


class Block(nn.Module):
    """Window attention and a small network, each behind a norm and added to its input."""

    def __init__(self, config: EncoderConfig, width: int, heads: int) -> None:
        super().__init__()
        inner = int(config.mlp_ratio * width)
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = Attention(config, width, heads)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = Dense(width, inner)
        self.output = Dense(inner, width)
        self.activation = activation(config.hidden_act)

    def __call__(self, x: mx.array, windows: Geometry) -> mx.array:
        """Map a flat grid to the same shape. Padding comes after the norm and is not masked, as upstream."""
        mixed = self.attention(windows.split(self.layernorm_before(x)), windows.mask)
        x = x + windows.join(mixed)
        return x + self._mixed_channels(self.layernorm_after(x))

    def _mixed_channels(self, x: mx.array) -> mx.array:
        """The small network, on a CPU in pieces that its cache holds."""
        inner = self.intermediate.dense.bias.size
        pieces = -(-x.shape[1] * inner // _CACHED) if on_cpu() else 1
        step = -(-x.shape[1] // pieces)
        parts = [x[:, start : start + step] for start in range(0, x.shape[1], step)] if pieces > 1 else [x]
        done = [self.output(self.activation(self.intermediate(part))) for part in parts]
        return mx.concatenate(done, axis=1) if pieces > 1 else done[0]


class PatchMerging(nn.Module):
    """Four neighbouring cells become one of twice the width; odd grids are padded with zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def __call__(self, x: mx.array, grid: Grid) -> tuple[mx.array, Grid]:
        """Halve a flat grid on both sides, rounding up. The columns of a 2 x 2 patch are the outer loop."""
        batch, _, width = x.shape
        rows, columns = grid
        x = x.reshape(batch, rows, columns, width)
        if rows % 2 or columns % 2:
            x = mx.pad(x, [(0, 0), (0, rows % 2), (0, columns % 2), (0, 0)])
        half = -(-rows // 2), -(-columns // 2)
        x = x.reshape(batch, half[0], 2, half[1], 2, width).transpose(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(batch, half[0] * half[1], 4 * width))), half


class Stage(nn.Module):
    """Blocks of one grid, every second one shifted by half a window, and the merging behind all but the last stage."""

    def __init__(self, config: EncoderConfig, index: int) -> None:
        super().__init__()
        width = config.embed_dim * 2**index
        self.window = config.window_size
        self.blocks = [Block(config, width, config.num_heads[index]) for _ in range(config.depths[index])]
        if index < len(config.depths) - 1:
            self.downsample = PatchMerging(width)

    def __call__(self, x: mx.array, grid: Grid, geometries: Geometries) -> tuple[mx.array, Grid]:
        """Map a flat grid, and halve it where the stage has a merging."""
        if min(grid) < self.window:
            raise UnsupportedArchitecture(
                f"The picture leaves a grid of {grid}, smaller than the window {self.window}.",
                hint="preprocessor_config.json and config.json of this checkpoint disagree about the picture's size.",
            )
        for index, block in enumerate(self.blocks):
            x = block(x, geometries.get(*grid, self.window, self.window // 2 * (index % 2)))
        return self.downsample(x, grid) if "downsample" in self else (x, grid)


class Stages(nn.Module):
    """All stages."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layers = [Stage(config, index) for index in range(len(config.depths))]
        self._geometries = Geometries()

    def __call__(self, x: mx.array, grid: Grid) -> mx.array:
        """Map a flat grid to the last stage's."""
        for stage in self.layers:
            x, grid = stage(x, grid, self._geometries)
        return x


class DonutSwin(nn.Module):
    """Pictures to vectors."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Stages(config)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Read pixels [batch, height, width, channels] into [batch, cells, hidden_size], the last grid row by row."""
        return self.encoder(*self.embeddings(pixels))
