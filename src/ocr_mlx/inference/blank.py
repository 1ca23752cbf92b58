"""Whether a page has anything on it, decided from its pixels before a model is asked (a model would invent something).

Blank is a page on which nothing stands out from the ground around it, and one that holds nothing but grain: marks that
lie by themselves and as evenly as chance puts them. Print does neither: its pixels touch, and it leaves white beside it.
What cannot be told from print (stains, rules, dust as large as letters, photographs) is left to the model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 2048
"""Larger pictures are looked at in a half, a third ... of their size."""
_CONTRAST = 12
"""Grey levels by which a mark differs from its ground, at least; fainter than that, nobody reads it."""
_SIGMAS = 6
"""A mark differs by this many times the picture's own grain."""
_TEXTURE = 6.0
"""Most grey levels of coarse grain that count as such: where print fills the picture, its strokes measure more. Beyond it
print can hide in the grain of any kind."""
_SPECKS = 4
"""So few pixels are dust: the thinnest letter that can be read has more."""
_STREAK_SIDE = 256
"""Pixels of the shorter side from which a line across all of it is no letter's."""
_CELL, _AROUND = 16, 5
"""The ground at a place is the median of so many cells around it, each way."""
_BLOCK = 16
_LEAST_BLOCKS = 64
_EVEN = 1.5
"""Grain varies from block to block as chance has it (1.0), print at least three times as much."""
_KIN = 0.25
"""From this correlation on, neighbouring pixels of grain know each other: paper, JPEG."""
_COARSE, _COARSE_EVEN = 64, 0.12
"""Such grain varies so little, by its strength, between blocks of this size."""
_COARSE_SIGMAS = 12
"""And none of them is further out than that."""
_SURELY = 21.0
"""No block of grain is further out than chance allows once in e**21."""


def is_blank(image: Image.Image) -> bool:
    """True when nothing can be read on the page.

    No colour channel may show anything either: print can be exactly as light as its ground.
    """
    if not _shows_nothing(image.convert("L")):
        return False
    return image.mode != "RGB" or all(_shows_nothing(channel) for channel in image.split())


def _shows_nothing(grey: Image.Image) -> bool:
    shrink = math.ceil(max(grey.size) / _SIDE)
    if shrink > 1:
        grey = grey.reduce(shrink)
    threshold = _threshold(np.asarray(grey))
    marks = np.abs(_relief(grey)) > threshold
    count = int(np.count_nonzero(marks))
    if count <= _SPECKS and threshold <= _SIGMAS * _TEXTURE:
        return True
    return _is_scattered(marks, count) and _is_even(_exact_relief(grey))


def _relief(grey: Image.Image) -> NDArray[np.int16]:
    """How far each pixel is from its ground.

    What is the same along a whole row or column goes too: streaks of a dirty scanner, rules from edge to edge.
    """
    relief: NDArray[np.int16] = np.asarray(grey, np.int16) - np.asarray(_ground(grey), np.int16)
    if min(grey.size) >= _STREAK_SIDE:
        relief -= np.median(relief[:, ::8], axis=1)[:, None].astype(np.int16)
        relief -= np.median(relief[::8], axis=0)[None].astype(np.int16)
    return relief


def _exact_relief(grey: Image.Image) -> NDArray[np.float32]:
    """The same for statistics: no rounding, and means, whose error is the smallest."""
    exact = grey.convert("F")
    relief: NDArray[np.float32] = np.asarray(exact) - np.asarray(_ground(exact))
    if min(grey.size) >= _STREAK_SIDE:
        relief -= relief.mean(1, keepdims=True)
        relief -= relief.mean(0, keepdims=True)
    return relief


def _ground(grey: Image.Image) -> Image.Image:
    """The paper without what is on it, in the picture's own mode: light and shade stay, strokes go."""
    if min(grey.size) < _CELL * _AROUND:
        return Image.new(grey.mode, grey.size, int(np.median(np.asarray(grey))))
    beyond = _AROUND // 2
    cells = np.pad(np.asarray(grey.reduce(_CELL), np.float32), beyond, mode="reflect", reflect_type="odd")
    ground = Image.fromarray(cells).filter(ImageFilter.MedianFilter(_AROUND))
    ground = ground.crop((beyond, beyond, ground.width - beyond, ground.height - beyond))
    if grey.mode == "L":
        ground = Image.fromarray(np.rint(np.clip(np.asarray(ground), 0, 255)).astype(np.uint8))
    whole = ground.resize((ground.width * _CELL, ground.height * _CELL), Image.Resampling.BILINEAR)
    return whole.crop((0, 0, *grey.size))


def _threshold(pixels: NDArray[np.uint8]) -> float:
    """How far from its ground a pixel must be to count as a mark."""
    sample = pixels[:: 1 + len(pixels) // 256]
    return max(_CONTRAST, _SIGMAS * _grain(sample, 1), _SIGMAS * min(_TEXTURE, _grain(sample, 8)))


def _grain(pixels: NDArray[np.uint8], apart: int) -> float:
    """Standard deviation of the noise in grey levels, from pixels so far apart, so that a slow shadow does not count."""
    if pixels.shape[1] <= apart:
        return 0.0
    steps = np.abs(pixels[:, apart:].astype(np.int16) - pixels[:, :-apart])
    return float(np.median(steps)) * 1.4826 / math.sqrt(2)


def _is_scattered(marks: NDArray[np.bool_], count: int) -> bool:
    """Whether no more marks touch two others than when each pixel were one by chance."""
    padded = np.pad(marks, 1).astype(np.uint8)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    touching = np.count_nonzero(marks & (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] > 2))
    share = count / marks.size
    chance = count * (1 - (1 - share) ** 8 - 8 * share * (1 - share) ** 7)
    return bool(touching <= _SPECKS + chance + 8 * math.sqrt(chance))


def _is_even(marks: NDArray[np.float32]) -> bool:
    """Whether depth and strength of the marks vary from place to place no more than those of grain do."""
    strength = marks**2
    if _varies_by_chance(marks) and _varies_by_chance(strength):
        return True
    if float((marks[:, 1:] * marks[:, :-1]).mean()) < _KIN * float(strength.mean()):
        return False
    blocks = _means(strength, _COARSE)
    if blocks.size < _LEAST_BLOCKS // 2 or blocks.std() > _COARSE_EVEN * blocks.mean():
        return False
    return _is_uniform(blocks) and _is_uniform(_means(marks, _COARSE))


def _is_uniform(blocks: NDArray[np.float32]) -> bool:
    """Whether no block is out of line with the others."""
    apart = np.abs(blocks - np.median(blocks))
    return bool(apart.max() <= _COARSE_SIGMAS * 1.4826 * np.median(apart))


def _means(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    high, wide = values.shape[0] // size, values.shape[1] // size
    blocks: NDArray[np.float32] = (
        values[: high * size, : wide * size].reshape(high, size, wide, size).mean((1, 3), dtype=np.float32)
    )
    return blocks


def _varies_by_chance(values: NDArray[np.float32]) -> bool:
    """Pixels that know nothing of each other: the blocks' means have their variance by the block's size, and no outlier."""
    mean, deviation = float(values.mean()), float(values.std())
    if deviation < 0.1 * abs(mean):
        return True  # all alike
    blocks = (_means(values, _BLOCK) - mean) * _BLOCK / deviation
    if blocks.size < _LEAST_BLOCKS:
        return False
    bound = _SURELY / 3 * float(np.abs(values - mean).max()) / (deviation * _BLOCK)
    limit = bound + math.sqrt(bound**2 + 2 * _SURELY)  # Bernstein's inequality
    return bool(blocks.var() <= _EVEN and np.abs(blocks).max() <= limit)
