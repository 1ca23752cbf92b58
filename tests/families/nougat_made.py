"""What the Nougat goldens and their tests make alike: pictures, logit curves, and the files around tiny weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.families import seeded

SIZES = {
    "page": (794, 1123),
    "landscape": (1123, 794),
    "exact": (672, 896),
    "small": (90, 60),
    "square": (500, 500),
    "tall": (60, 1400),
    "wide": (1500, 40),
    "large": (1700, 2339),
    "one_wide": (1, 40),
    "one_high": (37, 1),
    "odd": (673, 897),
    "grey": (300, 420),
    "white": (320, 240),
    "faint": (411, 333),
    "dark": (350, 500),
    "ramp": (512, 300),
}
"""Pictures by name: (width, height)."""
SAMPLE = 131
"""Every so many values of a picture are kept."""
CURVES = 24
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def picture(name: str) -> NDArray[np.uint8]:
    """A made-up page [height, width, 3]: strokes on paper, placed off-centre so that margins are cropped."""
    width, height = SIZES[name]
    noise = seeded.normal(f"picture {name}", (height, width), 5)
    page = np.full((height, width, 3), 255, dtype=np.uint8)
    if name == "white":
        return page
    if name == "ramp":
        page[:] = (np.arange(width) // 2)[None, :, None]
        return page
    ink = (noise > 0.3) & (np.arange(height)[:, None] // max(1, height // 40) % 3 == 0)
    if min(width, height) > 20:
        ink[: height // 9] = ink[-height // 7 :] = False
        ink[:, : width // 6] = ink[:, -width // 11 :] = False
    paper, stroke = {"faint": (240, 150), "dark": (90, 10), "grey": (200, 60)}.get(name, (255, 20))
    page[:] = paper
    shade = np.clip(stroke + noise * 12, 0, 255).astype(np.uint8)
    colours = np.stack([shade] * 3 if name == "grey" else [shade, shade // 2, 255 - shade], -1)
    page[ink] = colours[ink]
    return page


def levels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Normalised values [height, width, 3] as the grey levels 0..255 they came from."""
    return np.rint((values * STD + MEAN) * 255).astype(np.uint8)


def sample(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey levels spread over the whole picture."""
    return np.ascontiguousarray(levels(values).reshape(-1)[::SAMPLE])


def curve(index: int) -> NDArray[np.float64]:
    """The largest logits of a made-up decode: lively for a while, then calmer or not, sometimes lively again."""
    numbers = seeded.normal(f"curve {index}", (1600,), 3).astype(np.float64)
    lively, calm = 30 + 61 * index, [0.0, 0.02, 0.2, 0.45, 0.7, 1.0][index % 6]
    level = np.where(np.arange(1600) < lively, 3.0, calm)
    if index % 5 == 4:
        level[lively + 260 :] = 2.5
    return (20.0 + level * numbers).astype(np.float32).astype(np.float64)
