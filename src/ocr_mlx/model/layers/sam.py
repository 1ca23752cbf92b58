"""The SAM image encoder with its neck and two more halvings, as document models use it.

Source: `ImageEncoderViT` of DeepSeek-OCR (`deepencoder.py`) and GOT-OCR 2.0 (`vary_b.py`), which are Meta's
`segment_anything` with `net_2` and `net_3` behind the neck. Grids travel channels last, [pictures, rows, columns, width].
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
from mlx import nn

from ocr_mlx.model.layers.activations import activation
from ocr_mlx.model.layers.attention import attend
from ocr_mlx.model.layers.host import on_cpu
from ocr_mlx.model.layers.resample import resample_matrix

_SCORES = 1 << 26
"""Scores that may be held at once: 256 MB in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamConfig:
    """Hyper-parameters; the defaults are ViT-B's."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    image_size: int = 1024
    patch_size: int = 16
    window: int = 14
    global_layers: tuple[int, ...] = (2, 5, 8, 11)
    neck_width: int = 256
    down_widths: tuple[int, int] = (512, 1024)
    eps: float = 1e-6

    @property
    def grid(self) -> int:
        """Patches on a side of the pictures that the tables are made for."""
        return self.image_size // self.patch_size


class PatchEmbed(nn.Module):
    """A convolution whose kernel is its stride, computed as one matrix product."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, kernel_size=config.patch_size, stride=config.patch_size)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Read pixels [pictures, height, width, 3] of whole patches into a grid."""
        kernel = self.proj.weight
        out, size, _, channels = kernel.shape
        count, height, width, _ = pixels.shape
        cells = pixels.astype(kernel.dtype).reshape(count, height // size, size, width // size, size, channels)
        flat = cells.swapaxes(2, 3).reshape(count, height // size, width // size, size * size * channels)
        return mx.addmm(self.proj.bias, flat, kernel.reshape(out, -1).T)


class Attention(nn.Module):
    """Attention over a grid with a bias for each pair's distance in rows and in columns, taken from the unscaled queries."""

    def __init__(self, config: SamConfig, grid: int) -> None:
        super().__init__()
        self.heads = config.heads
        size = config.width // config.heads
        self.scale = size**-0.5
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.rel_pos_h = mx.zeros((2 * grid - 1, size))
        self.rel_pos_w = mx.zeros((2 * grid - 1, size))

    def __call__(self, x: mx.array) -> mx.array:
        """Mix each grid [pictures, rows, columns, width]."""
        count, rows, columns, width = x.shape
        parts = self.qkv(x).reshape(count, rows * columns, 3, self.heads, -1)
        queries, keys, values = (parts[:, :, part].swapaxes(1, 2) for part in range(3))
        tables = relative(self.rel_pos_h, rows), relative(self.rel_pos_w, columns)
        # Whole rows of the grid take turns, so that scores never take gigabytes.
        step = max(_SCORES // (count * self.heads * rows * columns * columns), 1)
        mixed = []
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            some = queries[:, :, start * columns : stop * columns]
            bias = self._bias(some, tables[0][start:stop], tables[1])
            part = attend(some, keys, values, scale=self.scale, mask=bias)
            if step < rows:
                mx.eval(part)
            mixed.append(part)
        joined = mx.concatenate(mixed, axis=2) if len(mixed) > 1 else mixed[0]
        out: mx.array = self.proj(joined.swapaxes(1, 2).reshape(count, rows, columns, width))
        return out

    def _bias(self, queries: mx.array, high: mx.array, wide: mx.array) -> mx.array:
        """The bias [pictures, heads, queries, keys] for the queries of some rows of the grid.

        `high` [some, rows, size] and `wide` [columns, columns, size] are the vectors of the distances.
        """
        count, heads, _, size = queries.shape
        some, rows, columns = high.shape[0], high.shape[1], wide.shape[0]
        grid = queries.reshape(count, heads, some, columns, size)
        by_row = grid @ high.swapaxes(1, 2)
        by_column = (grid.swapaxes(2, 3) @ wide.swapaxes(1, 2)).swapaxes(2, 3)
        bias = by_row[..., :, None] + by_column[..., None, :]
        return bias.reshape(count, heads, some * columns, rows * columns)


def relative(table: mx.array, size: int) -> mx.array:
    """The vectors [size, size, width] for each (query, key) on a side; a table for another size is resampled linearly."""
    wanted = 2 * size - 1
    if table.shape[0] != wanted:
        matrix = mx.array(resample_matrix(table.shape[0], wanted, "linear", antialias=False))
        table = (matrix @ table.astype(mx.float32)).astype(table.dtype)
    places = mx.arange(size)
    return table[places[:, None] - places[None, :] + (size - 1)]


class Mlp(nn.Module):
    """Two layers with the exact GELU between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, inner)
        self.lin2 = nn.Linear(inner, width)
        self._activation = activation("gelu")

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., width]."""
        out: mx.array = self.lin2(self._activation(self.lin1(x)))
        return out


class Block(nn.Module):
    """Attention in windows, or over the whole grid where `window` is 0, and a feed-forward network."""

    def __init__(self, config: SamConfig, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.eps)
        self.attn = Attention(config, window or config.grid)
        self.norm2 = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = Mlp(config.width, config.mlp_width)
        self._window = window

    def __call__(self, x: mx.array) -> mx.array:
        """Map a grid [pictures, rows, columns, width]."""
        normed = self.norm1(x)
        x = x + (self._in_windows(normed) if self._window else self.attn(normed))
        out: mx.array = x + self.mlp(self.norm2(x))
        return out

    def _in_windows(self, x: mx.array) -> mx.array:
        """Zeros fill the last windows and are looked at like everything else: upstream does not mask them."""
        count, rows, columns, width = x.shape
        side = self._window
        padded = mx.pad(x, [(0, 0), (0, -rows % side), (0, -columns % side), (0, 0)])
        down, across = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.reshape(count, down, side, across, side, width).swapaxes(2, 3)
        mixed = self.attn(windows.reshape(-1, side, side, width))
        grid = mixed.reshape(count, down, across, side, side, width).swapaxes(2, 3)
        return grid.reshape(count, down * side, across * side, width)[:, :rows, :columns]


class SamEncoder(nn.Module):
    """Pictures to features with a 64th of the pixels on a side (a patch, halved twice)."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        neck, (down, out) = config.neck_width, config.down_widths
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = mx.zeros((1, config.grid, config.grid, config.width))
        windows = [0 if index in config.global_layers else config.window for index in range(config.layers)]
        self.blocks = [Block(config, window) for window in windows]
        self.neck = [
            nn.Conv2d(config.width, neck, kernel_size=1, bias=False),
            nn.LayerNorm(neck, eps=config.eps),
            nn.Conv2d(neck, neck, kernel_size=3, padding=1, bias=False),
            nn.LayerNorm(neck, eps=config.eps),
        ]
        self.net_2 = nn.Conv2d(neck, down, kernel_size=3, stride=2, padding=1, bias=False)
        self.net_3 = nn.Conv2d(down, out, kernel_size=3, stride=2, padding=1, bias=False)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Read pixels [pictures, side, side, 3] into [pictures, side / 64, side / 64, features]."""
        x = self.patch_embed(pixels)
        x = x + self.positions(x.shape[1])
        for block in self.blocks:
            x = block(x)
            if on_cpu():
                mx.eval(x)  # one layer's arrays at a time
        for layer in self.neck:
            x = layer(x)
        out: mx.array = self.net_3(self.net_2(x))
        return out

    def positions(self, side: int) -> mx.array:
        """The table of positions [1, side, side, width], resampled for grids that it is not made for."""
        table = self.pos_embed
        if table.shape[1] == side:
            return table
        matrix = mx.array(resample_matrix(table.shape[1], side, "bicubic", antialias=True))
        rows = mx.tensordot(matrix, table[0].astype(mx.float32), axes=[[1], [0]])
        both = mx.tensordot(matrix, rows, axes=[[1], [1]]).swapaxes(0, 1)
        return both[None].astype(table.dtype)
