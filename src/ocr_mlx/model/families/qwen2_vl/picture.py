"""A page's picture at a size of its own: whole tokens a side, no more pixels than allowed.

Source: transformers 5.23, `Qwen2VLImageProcessorPil` and its `smart_resize`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ocr_mlx.errors import CheckpointIncomplete, UnsupportedArchitecture
from ocr_mlx.model.families.qwen2_vl.config import VisionConfig
from ocr_mlx.model.layers.pixels import CLIP_MEAN, CLIP_STD, Means, normalized, rgb

PAGE_PIXELS: Final = 2560 * 28 * 28
"""What a page is scaled down to unless the full resolution is asked for: A4 at about 144 dpi, 2560 tokens.

The tower's work grows with the square of the pixels: a page of 300 dpi takes about 19 times as long to look at.
"""
_MOST_ENLARGED: Final = 1 << 24
"""Pixels that a small picture may be enlarged to."""
_MOST_FACTOR: Final = 1024
_LONGEST: Final = 200
"""Longer pictures, in short sides, are refused by upstream."""
_AGAIN: Final = "Take preprocessor_config.json from the original checkpoint."
_WANTED: Final = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True, "resample": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSettings:
    """How a picture becomes numbers. Sizes in pixels; `factor` pixels a side become one token."""

    factor: int
    min_pixels: int
    max_pixels: int
    mean: Means
    std: Means

    @staticmethod
    def read(values: Mapping[str, Any], vision: VisionConfig) -> PictureSettings:
        """Read preprocessor_config.json, with the limits under their older or their newer names.

        Raises UnsupportedArchitecture for another way to prepare pictures, CheckpointIncomplete for useless values.
        """
        _check(values, vision)
        size = values.get("size") or {}
        least = values.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or 56 * 56
        most = values.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or 28 * 28 * 1280
        possible = isinstance(least, int) and isinstance(most, int) and 0 < least <= min(most, _MOST_ENLARGED)
        if not possible or vision.factor > _MOST_FACTOR:
            raise CheckpointIncomplete(
                f"preprocessor_config.json: pictures of {least!r} to {most!r} pixels are not possible.", hint=_AGAIN
            )
        mean, std = values.get("image_mean") or CLIP_MEAN, values.get("image_std") or CLIP_STD
        if len(mean) != len(CLIP_MEAN) or len(std) != len(CLIP_STD):
            raise CheckpointIncomplete(
                "preprocessor_config.json: image_mean or image_std has not 3 values.", hint=_AGAIN
            )
        return PictureSettings(
            factor=vision.factor, min_pixels=least, max_pixels=most, mean=tuple(mean), std=tuple(std)
        )


def _check(values: Mapping[str, Any], vision: VisionConfig) -> None:
    sizes = {
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }
    for name, expected in (sizes | _WANTED).items():
        if (found := values.get(name, expected)) != expected:
            raise UnsupportedArchitecture(
                f"preprocessor_config.json: {name} is {found!r}, the model expects {expected!r}.", hint=_AGAIN
            )


def picture_pixels(image: Image.Image, settings: PictureSettings, most: int | None = None) -> NDArray[np.float32]:
    """The picture as [height, width, 3], both whole numbers of tokens; at most about `most` pixels where that is given."""
    picture = bearable(rgb(image))
    limit = settings.max_pixels if most is None else max(min(most, settings.max_pixels), settings.min_pixels)
    height, width = smart_size(picture.height, picture.width, settings.factor, settings.min_pixels, limit)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return normalized(picture, settings.mean, settings.std)


def smart_size(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """The nearest (height, width) in whole multiples of `factor` with about `least` to `most` pixels.

    Halves are rounded to even, as upstream's `round` does.
    """
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns * factor**2 > most:
        shrink = math.sqrt(height * width / most)
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif rows * columns * factor**2 < least:
        grow = math.sqrt(least / (height * width))
        rows, columns = math.ceil(height * grow / factor), math.ceil(width * grow / factor)
    return rows * factor, columns * factor


def bearable(image: Image.Image) -> Image.Image:
    """The picture, on white where it is more than 200 times as long as wide: upstream refuses those, users do not mean to."""
    least = -(-max(image.size) // _LONGEST)
    if min(image.size) >= least:
        return image
    paper = Image.new("RGB", (max(image.width, least), max(image.height, least)), "white")
    paper.paste(image, ((paper.width - image.width) // 2, (paper.height - image.height) // 2))
    return paper
