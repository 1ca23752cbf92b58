"""A page as the model looks at it: the whole of it as a square, and tiles of it, with the values upstream gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ocr_mlx.errors import InvalidOption
from ocr_mlx.model.families.deepseek_ocr.modes import FULL
from ocr_mlx.model.layers.pixels import normalized

GREY: Final = (127, 127, 127)
"""What surrounds a page that is no square: int(0.5 * 255)."""
LEAST_TILES: Final = 2
_HALF: Final = (0.5, 0.5, 0.5)
Pixels = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How to look at a page. `square` is the side of the whole view in pixels.

    `squashed` distorts the page to that square, else it keeps its shape on grey. `tile` is the side of the tiles, None
    where there are none, and `most_tiles` how many there may be.
    """

    square: int
    squashed: bool = False
    tile: int | None = None
    most_tiles: int = 0


_SIZES: Final[Mapping[int, Mapping[str, Size]]] = {
    1: {
        FULL: Size(square=1024, tile=640, most_tiles=9),
        "tiny": Size(square=512, squashed=True),
        "small": Size(square=640, squashed=True),
        "base": Size(square=1024),
        "large": Size(square=1280),
    },
    2: {
        FULL: Size(square=1024, tile=768, most_tiles=6),
        "small": Size(square=768, squashed=True),
        "base": Size(square=1024),
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A page, seen. `whole` [side, side, 3]; `tiles` [n, tile, tile, 3], row by row, of a `grid` (columns, rows).

    `effective_size` is the (width, height) in pixels that the page has in the finest view.
    """

    whole: Pixels
    tiles: Pixels | None
    grid: tuple[int, int]
    effective_size: tuple[int, int]


def size_of(version: int, name: str) -> Size:
    """The size of that name; raises InvalidOption where this version has none."""
    sizes = _SIZES[version]
    if name not in sizes:
        raise InvalidOption(
            f"DeepSeek-OCR version {version} does not look at pages in size {name!r}.",
            hint=f"Choose one of {', '.join(sizes)}.",
        )
    return sizes[name]


def look(page: Image.Image, size: Size) -> View:
    """The page in this size. A page no larger than one tile gets none."""
    whole, seen = _whole(page, size)
    if size.tile is None or max(page.size) <= size.tile:
        return View(whole=values(whole), tiles=None, grid=(1, 1), effective_size=seen)
    grid = choose_grid(*page.size, size.tile, size.most_tiles)
    mosaic = page.resize((grid[0] * size.tile, grid[1] * size.tile), Image.Resampling.BICUBIC)
    return View(whole=values(whole), tiles=_cut(values(mosaic), size.tile), grid=grid, effective_size=mosaic.size)


def values(picture: Image.Image) -> Pixels:
    """An RGB picture as [height, width, 3], from -1 to 1."""
    return normalized(picture, _HALF, _HALF)


def choose_grid(width: int, height: int, tile: int, most: int) -> tuple[int, int]:
    """Columns and rows of tiles whose shape is nearest to the page's.

    Of grids equally near the one with more tiles wins where the page has more than half their pixels. Candidates come in
    the order of their number of tiles, as upstream's do; grids of one number are never equally near.
    """
    shape = width / height
    best, nearest = (1, 1), float("inf")
    for columns, rows in _grids(most):
        distance = abs(shape - columns / rows)
        large = width * height > 0.5 * tile * tile * columns * rows
        if distance < nearest or (distance == nearest and large):
            best, nearest = (columns, rows), distance
    return best


def features(version: int, size: Size, grid: tuple[int, int], cell: int) -> int:
    """How many places in the prompt the picture takes; grid (1, 1) means no tiles.

    A feature stands for a square of `cell` pixels. Version 1 ends every row of the whole view, and every row across all
    tiles, with a line break; both versions put a separator at the end.
    """
    breaks = 1 if version == 1 else 0
    count = _area(size.square // cell, (1, 1), breaks) + 1
    return count + (_area(size.tile // cell, grid, breaks) if size.tile and grid != (1, 1) else 0)


def _area(side: int, grid: tuple[int, int], breaks: int) -> int:
    columns, rows = grid
    return side * rows * (side * columns + breaks)


def _grids(most: int) -> list[tuple[int, int]]:
    sides = range(1, most + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if LEAST_TILES <= columns * rows <= most]
    return sorted(grids, key=lambda grid: grid[0] * grid[1])


def _whole(page: Image.Image, size: Size) -> tuple[Image.Image, tuple[int, int]]:
    """The whole view, and the size that the page has in it."""
    side = size.square
    if size.squashed:
        return page.resize((side, side), Image.Resampling.BICUBIC), (side, side)
    fitted = page.resize(_fit(page, side), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (side, side), GREY)
    canvas.paste(fitted, (round((side - fitted.width) / 2), round((side - fitted.height) / 2)))
    return canvas, fitted.size


def _fit(page: Image.Image, side: int) -> tuple[int, int]:
    """As `PIL.ImageOps.contain` computes it, but never less than one pixel."""
    if page.width >= page.height:
        return side, max(1, round(page.height / page.width * side))
    return max(1, round(page.width / page.height * side)), side


def _cut(mosaic: Pixels, tile: int) -> Pixels:
    rows, columns = mosaic.shape[0] // tile, mosaic.shape[1] // tile
    parts = mosaic.reshape(rows, tile, columns, tile, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(parts).reshape(rows * columns, tile, tile, 3)
