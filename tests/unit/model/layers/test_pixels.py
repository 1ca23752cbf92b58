from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ocr_mlx.model.layers.pixels import CLIP_MEAN, CLIP_STD, normalized, rgb


def test_levels_become_normal() -> None:
    image = Image.new("RGB", (3, 2), (255, 0, 51))
    values = normalized(image, CLIP_MEAN, CLIP_STD)
    assert (values.shape, values.dtype) == ((2, 3, 3), np.float32)
    wanted = [(1 - CLIP_MEAN[0]) / CLIP_STD[0], -CLIP_MEAN[1] / CLIP_STD[1], (0.2 - CLIP_MEAN[2]) / CLIP_STD[2]]
    assert values[1, 2].tolist() == pytest.approx(wanted, rel=1e-6)


def test_grey_becomes_rgb_and_rgb_stays() -> None:
    grey = Image.new("L", (2, 2), 7)
    assert rgb(grey).getpixel((0, 0)) == (7, 7, 7)
    image = Image.new("RGB", (2, 2))
    assert rgb(image) is image
