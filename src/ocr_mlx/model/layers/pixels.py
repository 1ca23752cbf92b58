"""Pictures as numbers, the way upstream's processors make them with Pillow and numpy."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Means = tuple[float, float, float]
CLIP_MEAN: Final[Means] = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final[Means] = (0.26862954, 0.26130258, 0.27577711)
_WHITE: Final = np.float32(255)


def rgb(image: Image.Image) -> Image.Image:
    """The picture with three channels; one that has them already is returned as it is."""
    return image if image.mode == "RGB" else image.convert("RGB")


def normalized(image: Image.Image, mean: Means, std: Means) -> NDArray[np.float32]:
    """float32 [height, width, 3]: 0..255 becomes 0..1, then (value - mean) / std per channel."""
    values: NDArray[np.float32] = np.asarray(rgb(image), dtype=np.float32) / _WHITE
    values -= np.asarray(mean, dtype=np.float32)
    values /= np.asarray(std, dtype=np.float32)
    return values
