"""A page's pixels: scaled down to the longest side, sides rounded up to whole cells, as upstream does it with Pillow.

Source: transformers 5.23, `models/pixtral/{processing_pixtral,image_processing_pil_pixtral}.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ocr_mlx.errors import UnsupportedArchitecture
from ocr_mlx.model.families.lighton_ocr.config import LightOnConfig
from ocr_mlx.model.layers.pixels import CLIP_MEAN, CLIP_STD, Means, normalized, rgb

_MOST_UNIT = 1024
"""Pixels: a picture's sides are rounded up to whole cells. Published models have 28."""
_HINT = "Take the processor_config.json of the original checkpoint."


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSettings:
    """`longest` side in pixels, `unit` that sides are rounded up to, `cell` pixels on a side that become one token."""

    longest: int
    unit: int
    cell: int
    resample: Image.Resampling = Image.Resampling.BICUBIC
    mean: Means = CLIP_MEAN
    std: Means = CLIP_STD

    @staticmethod
    def read(joint: Mapping[str, Any], image: Mapping[str, Any], config: LightOnConfig) -> PictureSettings:
        """From processor_config.json (`joint`) and its image part or preprocessor_config.json (`image`); both may be empty.

        Sides are rounded to the joint file's `patch_size * spatial_merge_size`, as PixtralProcessor does. The image
        part's own `patch_size` is the tower's and rounds nothing: the joint processor overrules it.
        Raises UnsupportedArchitecture for settings that make no sense.
        """
        off = [name for name in ("do_resize", "do_rescale", "do_normalize") if image.get(name) is False]
        if off:
            raise UnsupportedArchitecture(f"The image processor switches off {', '.join(off)}.", hint=_HINT)
        size = image.get("size")
        longest = size.get("longest_edge") if isinstance(size, Mapping) else size
        merge = _positive("spatial_merge_size", joint.get("spatial_merge_size"), config.spatial_merge_size)
        patch = _positive("patch_size", joint.get("patch_size"), config.vision.patch_size)
        if max(patch * merge, config.cell) > _MOST_UNIT:
            raise UnsupportedArchitecture(
                f"The processor cuts pictures into cells of {patch * merge} pixels.", hint=_HINT
            )
        return PictureSettings(
            longest=_positive("size.longest_edge", longest, config.vision.image_size),
            unit=patch * merge,
            cell=config.cell,
            resample=_resample(image.get("resample")),
            mean=_means(image, "image_mean", CLIP_MEAN),
            std=_means(image, "image_std", CLIP_STD),
        )

    def target(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) that a picture of this size is scaled to: never up but by rounding, never below a cell."""
        ratio = max(width / self.longest, height / self.longest)
        if ratio > 1:
            width, height = math.floor(width / ratio), math.floor(height / ratio)
        return self._rounded(width), self._rounded(height)

    def tokens(self, pixels: NDArray[np.float32]) -> int:
        """How many image tokens a picture [height, width, channels] takes."""
        return int(pixels.shape[0] // self.cell * (pixels.shape[1] // self.cell))

    def _rounded(self, side: int) -> int:
        return max(-(-side // self.unit) * self.unit, self.cell)


def page_pixels(image: Image.Image, settings: PictureSettings) -> NDArray[np.float32]:
    """float32 [height, width, 3]."""
    scaled = rgb(image).resize(settings.target(image.width, image.height), settings.resample)
    return normalized(scaled, settings.mean, settings.std)


def _positive(name: str, value: Any, default: int) -> int:
    if isinstance(value, Mapping):  # both sides of a square
        sides = set(value.values())
        value = sides.pop() if len(sides) == 1 else value
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UnsupportedArchitecture(f"The processor's {name} is {value!r}, not a positive number.", hint=_HINT)
    return value


def _resample(value: Any) -> Image.Resampling:
    try:
        return Image.Resampling(3 if value is None else value)
    except ValueError as error:
        raise UnsupportedArchitecture(f"The image processor's resample {value!r} is not known.", hint=_HINT) from error


def _means(values: Mapping[str, Any], name: str, default: Means) -> Means:
    found = values.get(name)
    if found is None:
        return default
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(v, int | float) for v in found):
        raise UnsupportedArchitecture(f"The image processor's {name} is not three numbers.", hint=_HINT)
    return float(found[0]), float(found[1]), float(found[2])
