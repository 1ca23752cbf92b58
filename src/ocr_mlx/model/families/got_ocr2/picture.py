"""Pages as pictures of one size: squashed to a square, or cut into square tiles with the squashed whole behind them.

Source: `GOTImageEvalProcessor` and `dynamic_preprocess` of the original; transformers' `GotOcr2ImageProcessorPil` gives the
same pictures when its `max_patches` is 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ocr_mlx.errors import UnsupportedArchitecture
from ocr_mlx.model.folder import member, read_json
from ocr_mlx.model.layers.pixels import CLIP_MEAN, CLIP_STD, Means, normalized, rgb

MOST_TILES: Final = 6
_FILES: Final = ("preprocessor_config.json", "processor_config.json")
_BICUBIC: Final = 3
_GRIDS: Final = sorted(
    (
        (columns, rows)
        for columns in range(1, MOST_TILES + 1)
        for rows in range(1, MOST_TILES + 1)
        if columns * rows <= MOST_TILES
    ),
    key=lambda grid: grid[0] * grid[1],
)
_HINT: Final = "Take preprocessor_config.json from the original checkpoint."


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSettings:
    """The side of a picture in pixels, and the means and deviations of its channels."""

    side: int
    mean: Means = CLIP_MEAN
    std: Means = CLIP_STD

    @staticmethod
    def read(folder: Path, side: int) -> PictureSettings:
        """What preprocessor_config.json says, for a graph that takes pictures of `side`; the original has no such file.

        Raises UnsupportedArchitecture for a file that describes other pictures.
        """
        values = _settings(folder)
        size = values.get("size") or {}
        found = {size} if isinstance(size, int) else set(size.values())
        if found - {side}:
            raise UnsupportedArchitecture(
                f"The image processor makes pictures of {size}, the model takes {side} x {side}.", hint=_HINT
            )
        if values.get("resample", _BICUBIC) != _BICUBIC:
            raise UnsupportedArchitecture(f"The resampling {values['resample']!r} is not bicubic.", hint=_HINT)
        if off := [name for name in ("do_resize", "do_rescale", "do_normalize") if values.get(name) is False]:
            raise UnsupportedArchitecture(f"Pictures without {', '.join(off)} are not supported.", hint=_HINT)
        return PictureSettings(
            side=side, mean=_three(values, "image_mean", CLIP_MEAN), std=_three(values, "image_std", CLIP_STD)
        )


def _settings(folder: Path) -> Mapping[str, Any]:
    for name in _FILES:
        if (path := member(folder, name)).is_file():
            values = read_json(path)
            inner = values.get("image_processor")
            return inner if isinstance(inner, Mapping) else values
    return {}


def _three(values: Mapping[str, Any], name: str, usual: Means) -> Means:
    found = values.get(name) or usual
    if not isinstance(found, list | tuple) or len(found) != 3:
        raise UnsupportedArchitecture(f"{name} is {found!r}, not one number for each of three channels.", hint=_HINT)
    red, green, blue = (float(value) for value in found)
    return red, green, blue


def pixels(pictures: list[Image.Image], settings: PictureSettings) -> NDArray[np.float32]:
    """float32 [pictures, side, side, 3]; each picture is squashed to the square unless it is one already."""
    square = (settings.side, settings.side)
    resized = (rgb(picture).resize(square, Image.Resampling.BICUBIC) for picture in pictures)
    return np.stack([normalized(picture, settings.mean, settings.std) for picture in resized])


def grid_for(width: int, height: int, side: int) -> tuple[int, int]:
    """(columns, rows) of the tiles whose shape is nearest to the picture's, 6 tiles at most.

    Of two grids as near, the one with more tiles is taken where the picture has more than half of its pixels.
    """
    shape, area = width / height, width * height
    best, nearest = (1, 1), float("inf")
    for columns, rows in _GRIDS:
        distance = abs(shape - columns / rows)
        if distance < nearest or (distance == nearest and area > 0.5 * side * side * columns * rows):
            best, nearest = (columns, rows), distance
    return best


def tiles(image: Image.Image, grid: tuple[int, int], side: int) -> list[Image.Image]:
    """The picture's tiles, row by row, and the whole picture behind them; the picture alone where the grid is one tile."""
    columns, rows = grid
    if columns * rows == 1:
        return [image]
    whole = rgb(image)
    large = whole.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    corners = [(column * side, row * side) for row in range(rows) for column in range(columns)]
    return [*(large.crop((left, top, left + side, top + side)) for left, top in corners), whole]
