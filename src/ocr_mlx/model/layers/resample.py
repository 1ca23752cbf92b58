"""Tables of positions for grids of other sizes, as `torch.nn.functional.interpolate` makes them."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Kernel = Literal["bicubic", "linear"]
_KEYS: Final = {True: -0.5, False: -0.75}
"""Torch's cubic: Pillow's constant with antialiasing, OpenCV's without."""


def resample_matrix(source: int, target: int, kernel: Kernel, *, antialias: bool) -> NDArray[np.float32]:
    """The matrix [target, source] that resamples a line, `align_corners` False.

    With `antialias` the kernel widens when shrinking, and weights beyond the ends are left out and the rest made whole;
    without it the values at the ends go on.
    """
    ratio = source / target
    stretch = max(ratio, 1.0) if antialias else 1.0
    reach = 2.0 if kernel == "bicubic" else 1.0
    matrix = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * ratio - 0.5
        if kernel == "linear" and not antialias:
            centre = max(centre, 0.0)
        places = np.arange(int(np.floor(centre - reach * stretch)), int(np.ceil(centre + reach * stretch)) + 1)
        weights = _weights(np.abs(places - centre) / stretch, kernel, antialias)
        inside = (places >= 0) & (places < source)
        if antialias:
            weights = np.where(inside, weights, 0.0)
            weights /= weights.sum()
        np.add.at(matrix[row], np.clip(places, 0, source - 1), weights)
    return matrix.astype(np.float32)


def _weights(distance: NDArray[np.float64], kernel: Kernel, antialias: bool) -> NDArray[np.float64]:
    if kernel == "linear":
        return np.maximum(1.0 - distance, 0.0)
    a = _KEYS[antialias]
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
