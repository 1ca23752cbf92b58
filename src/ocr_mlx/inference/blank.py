"""Whether a page has anything on it, decided from its pixels before a model is asked (a model would invent something)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_SIDE = 1024
_CONTRAST = 16
"""Grey levels by which ink differs from the paper around it, at least; JPEG noise stays below."""
_SIGMAS = 6
"""Ink differs by this many times the picture's own grain."""
_SPECKS = 12
"""A few such pixels are dust, not writing."""


def is_blank(image: Image) -> bool:
    """True when nothing on the page stands out from its background. The picture is looked at in at most 1024 px a side."""
    grey = image.convert("L")
    grey.thumbnail((_SIDE, _SIDE))
    pixels = np.asarray(grey, dtype=np.int16)
    difference = np.abs(pixels - np.int16(np.median(pixels)))
    threshold = max(_CONTRAST, _SIGMAS * _grain(pixels))
    return int(np.count_nonzero(difference > threshold)) <= _SPECKS


def _grain(pixels: NDArray[np.int16]) -> float:
    """Standard deviation of the noise, from neighbouring pixels, so that a shadow across the page does not count."""
    if pixels.shape[1] < 2:
        return 0.0
    return float(np.median(np.abs(np.diff(pixels, axis=1)))) * 1.4826 / math.sqrt(2)
