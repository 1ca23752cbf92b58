"""Pictures to the vectors that stand in the prompt: SAM, what is behind it, the projector, and their order.

Source: `DeepseekOCRModel.forward` and `DeepseekOCR2Model.forward` of the published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import mlx.core as mx
import numpy as np
from mlx import nn
from numpy.typing import NDArray

from ocr_mlx.model.base import ModelInputs
from ocr_mlx.model.families.deepseek_ocr.clip import Clip
from ocr_mlx.model.families.deepseek_ocr.config import DeepseekConfig
from ocr_mlx.model.families.deepseek_ocr.query_encoder import QueryEncoder
from ocr_mlx.model.layers.sam import SamEncoder

Pictures = NDArray[np.float32]
Grid = tuple[int, int]
"""Tiles of a page: (columns, rows)."""
_PIXELS_AT_ONCE: Final = 4 * 1024 * 1024
"""Pixels that go through the towers in one pass."""


class Projector(nn.Module):
    """A level of the checkpoint's names."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Linear(width, out)


def add_towers(module: nn.Module, config: DeepseekConfig) -> None:
    """Give the module the vision parts, which the checkpoint has beside the text layers."""
    width = config.text.hidden_size
    module.sam_model = SamEncoder(config.sam)
    if config.clip is not None:
        module.vision_model = Clip(config.clip)
        module.image_newline = mx.zeros((width,))
    if config.query is not None:
        module.qwen2_model = QueryEncoder(config.query)
    module.projector = Projector(config.feature_width, width)
    module.view_seperator = mx.zeros((width,))


def encode(module: nn.Module, pixels: mx.array) -> mx.array:
    """Read pixels [pictures, side, side, 3] into projected features [pictures, count, width]."""
    grid = module.sam_model(pixels)
    if "qwen2_model" in module:
        features = module.qwen2_model(grid)
    else:
        flat = grid.reshape(grid.shape[0], -1, grid.shape[-1])
        features = mx.concatenate([module.vision_model(grid), flat], axis=-1)
    out: mx.array = module.projector.layers(features)
    return out


def read_pictures(module: nn.Module, rows: Sequence[ModelInputs]) -> mx.array:
    """The features [rows, count, width] that stand in the prompts of rows of one shape, all tiles in one pass.

    Raises ValueError for a row without a picture, and for rows that need different numbers of places.
    """
    views = [row.pixels for row in rows if row.pixels is not None]
    if len(views) != len(rows):
        raise ValueError("every row of this family needs a picture")
    whole = _in_groups(module, np.stack(views))
    tiles = [row.extras["tiles"] for row in rows if "tiles" in row.extras]
    if not tiles:
        return mx.stack([assemble(module, view) for view in whole])
    parts = _in_groups(module, np.concatenate(tiles))
    ends = np.cumsum([len(some) for some in tiles])
    starts = [0, *ends[:-1].tolist()]
    pieces = [parts[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]
    grids: list[Grid] = [(int(row.extras["grid"][0]), int(row.extras["grid"][1])) for row in rows]
    joined = zip(whole, pieces, grids, strict=True)
    return mx.stack([assemble(module, view, some, grid) for view, some, grid in joined])


def assemble(module: nn.Module, view: mx.array, tiles: mx.array | None = None, grid: Grid = (0, 0)) -> mx.array:
    """One page's features in order, [count, width]: its tiles, the whole view [n, width], the separator.

    Tiles are [columns * rows, n, width]. Version 1 lays them out as one map and ends each line of a map with a new line;
    version 2 keeps tile after tile.
    """
    parts = []
    if tiles is not None:
        if tiles.shape[0] != grid[0] * grid[1]:
            raise ValueError(f"{tiles.shape[0]} tiles are not {grid[0]} x {grid[1]}")
        parts.append(_lines(module, tiles, grid) if "image_newline" in module else tiles.reshape(-1, tiles.shape[-1]))
    parts.append(_lines(module, view[None], (1, 1)) if "image_newline" in module else view)
    return mx.concatenate([*parts, module.view_seperator[None]])


def _lines(module: nn.Module, tiles: mx.array, grid: Grid) -> mx.array:
    (columns, rows), width = grid, tiles.shape[-1]
    side = round(tiles.shape[1] ** 0.5)
    table = tiles.reshape(rows, columns, side, side, width).swapaxes(1, 2).reshape(rows * side, columns * side, width)
    ends = mx.broadcast_to(module.image_newline, (rows * side, 1, width))
    return mx.concatenate([table, ends], axis=1).reshape(-1, width)


def _in_groups(module: nn.Module, pictures: Pictures) -> mx.array:
    """The features of all pictures [pictures, side, side, 3], as many at once as memory allows."""
    at_once = max(1, _PIXELS_AT_ONCE // (pictures.shape[1] * pictures.shape[2]))
    groups = [pictures[start : start + at_once] for start in range(0, len(pictures), at_once)]
    return mx.concatenate([encode(module, mx.array(group)) for group in groups])
