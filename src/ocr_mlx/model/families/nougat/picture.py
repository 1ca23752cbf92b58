"""A page's pixels as Nougat's image processor makes them with Pillow, value for value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ocr_mlx.errors import UnsupportedArchitecture
from ocr_mlx.model.families.nougat.config import EncoderConfig

TEXT_BELOW = 200
"""Grey levels, after the page's contrast is stretched to 0..255, that count as text when margins are cropped."""
_NEEDED = ("do_resize", "do_thumbnail", "do_pad", "do_rescale", "do_normalize")
_MOST_PIXELS = 64_000_000
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSettings:
    """The options of preprocessor_config.json. `levels` [256, channels] holds each grey level's normalised value."""

    height: int
    width: int
    crop_margin: bool
    align_long_axis: bool
    resample: Image.Resampling
    mode: str
    levels: NDArray[np.float32]

    @staticmethod
    def read(values: Mapping[str, Any], encoder: EncoderConfig) -> PictureSettings:
        """Read the settings; UnsupportedArchitecture for steps left out, or a picture that is not the graph's."""
        if off := [name for name in _NEEDED if not values.get(name, True)]:
            raise UnsupportedArchitecture(f"preprocessor_config.json switches off {', '.join(off)}.", hint=_HINT)
        size = values.get("size", {"height": encoder.image_size[0], "width": encoder.image_size[1]})
        if not isinstance(size, Mapping) or (size.get("height"), size.get("width")) != encoder.image_size:
            raise UnsupportedArchitecture(
                f"preprocessor_config.json makes pictures of {size}, config.json expects {encoder.image_size}.",
                hint=_HINT,
            )
        mean, std = values.get("image_mean", _MEAN), values.get("image_std", _STD)
        if not len(mean) == len(std) == encoder.num_channels or encoder.num_channels not in _MODES:
            raise UnsupportedArchitecture(
                f"preprocessor_config.json has {len(mean)} channels, config.json {encoder.num_channels}.", hint=_HINT
            )
        return PictureSettings(
            height=encoder.image_size[0],
            width=encoder.image_size[1],
            crop_margin=bool(values.get("do_crop_margin", True)),
            align_long_axis=bool(values.get("do_align_long_axis", False)),
            resample=Image.Resampling(values.get("resample", Image.Resampling.BILINEAR)),
            mode=_MODES[encoder.num_channels],
            levels=_levels(values.get("rescale_factor", 1 / 255), mean, std),
        )


_HINT = "Only Nougat's own image processing is supported."
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def page_pixels(image: Image.Image, settings: PictureSettings) -> NDArray[np.float32]:
    """Crop the margins, scale, centre on black and normalise: [height, width, channels]."""
    image = image.convert("RGB")
    if settings.crop_margin:
        image = without_margin(image)
    if settings.align_long_axis and _lies_across(image.size, settings):
        image = image.transpose(Image.Transpose.ROTATE_270)
    image = fitted(image, settings).convert(settings.mode)
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    canvas = np.zeros((settings.height, settings.width, pixels.shape[2]), dtype=np.uint8)
    top, left = (settings.height - image.height) // 2, (settings.width - image.width) // 2
    canvas[top : top + image.height, left : left + image.width] = pixels
    return np.take_along_axis(settings.levels, canvas.reshape(-1, pixels.shape[2]), axis=0).reshape(canvas.shape)


def without_margin(image: Image.Image) -> Image.Image:
    """The part of the page that holds everything darker than `TEXT_BELOW`; a page of one grey stays whole."""
    grey = np.asarray(image.convert("L"))
    low, high = int(grey.min()), int(grey.max())
    if low == high:
        return image
    dark = ((np.arange(256) - low) / (high - low) * 255 < TEXT_BELOW)[grey]
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    return image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def fitted(image: Image.Image, settings: PictureSettings) -> Image.Image:
    """Scale twice, as upstream does: the shorter side to the picture's shorter side, then down into the picture.

    Very long pages take the second step alone: the first would need gigabytes.
    """
    short = min(settings.height, settings.width)
    longest = int(short * max(image.size) / min(image.size))
    first = (short, longest) if image.width <= image.height else (longest, short)
    if short * longest <= _MOST_PIXELS:
        image = image.resize(first, settings.resample)
    second = _thumbnail_size(first, settings)
    return image if second == image.size else image.resize(second, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _thumbnail_size(size: tuple[int, int], settings: PictureSettings) -> tuple[int, int]:
    width, height = min(size[0], settings.width), min(size[1], settings.height)
    if (width, height) == size:
        return size
    if size[1] > size[0]:
        width = int(size[0] * height / size[1])
    elif size[0] > size[1]:
        height = int(size[1] * width / size[0])
    return max(1, width), max(1, height)


def _lies_across(size: tuple[int, int], settings: PictureSettings) -> bool:
    upright = settings.width < settings.height and size[0] > size[1]
    return upright or (settings.width > settings.height and size[0] < size[1])


def _levels(factor: float, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    scaled = (np.arange(256) * factor).astype(np.float32)[:, None]
    return np.divide(scaled - np.asarray(mean, dtype=np.float32), np.asarray(std, dtype=np.float32), dtype=np.float32)
