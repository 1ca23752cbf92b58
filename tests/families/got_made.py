"""What the GOT-OCR2 goldens and their tests make alike: weights, pixels, prompts, pictures, and the four namings."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from tests.families import seeded

SPECIAL_COUNT = 217
"""<|endoftext|> to <imgpad>, in one block at the end of the vocabulary."""
SIZES = {
    "page": (794, 1123),
    "landscape": (1123, 794),
    "exact": (1024, 1024),
    "small": (90, 60),
    "tall": (60, 1400),
    "wide": (1500, 40),
    "large": (1700, 2339),
    "one_wide": (1, 40),
    "one_high": (37, 1),
    "pixel": (1, 1),
    "odd": (673, 897),
    "grey": (300, 420),
    "two_by_three": (600, 900),
    "half": (700, 400),
}
"""Pictures by name: (width, height)."""
SIDES = (64, 1024)
"""Pictures and tiles are made of these sides; the larger one for a few pictures only."""
AT_FULL_SIDE = ("page", "small", "large", "one_wide")
SAMPLE = 10_007
"""Every so many values of a picture at the larger side are kept, at the smaller one 41 times as many."""


def picture(name: str) -> NDArray[np.uint8]:
    """A made-up page [height, width, 3] or, for `grey`, [height, width]: strokes on paper with a shade across."""
    width, height = SIZES[name]
    noise = seeded.normal(f"picture {name}", (height, width), 5)
    shade = 235 - (np.arange(width) * 30 // max(width, 1))[None, :]
    ink = (noise > 0.3) & (np.arange(height)[:, None] // max(1, height // 40) % 3 == 0)
    values = np.clip(np.where(ink, 20 + noise * 12, shade), 0, 255).astype(np.uint8)
    return values if name == "grey" else np.stack([values, values // 2 + 60, 255 - values // 3], -1)


def sides(name: str) -> tuple[int, ...]:
    """The sides at which a picture is compared."""
    return SIDES if name in AT_FULL_SIDE else SIDES[:1]


def sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values spread over a picture [side, side, 3]."""
    return np.ascontiguousarray(values.reshape(-1)[:: SAMPLE if values.shape[0] == SIDES[1] else SAMPLE // 41])


def weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, NDArray[np.float32]]:
    """Random weights under transformers 5's names that keep the graph lively: places and distances count."""
    return {name: _scaled(name, seeded.normal(name, shape, seed)) for name, shape in shapes.items()}


def _scaled(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    if "norm" in name and name.endswith("weight"):
        return np.float32(1.0) + np.float32(0.1) * values
    if "pos_embed" in name:
        return np.float32(0.4) * values
    if "rel_pos" in name:
        return np.float32(0.2) * values
    if values.ndim == 1:
        return np.float32(0.1) * values
    if "embed_tokens" in name:
        return np.float32(0.5) * values
    return values * np.float32(1.3 / np.sqrt(values[0].size))


def pixels(count: int, side: int, seed: int) -> NDArray[np.float32]:
    """Made-up normalised pictures [count, side, side, 3]."""
    return seeded.normal("pixels", (count, side, side, 3), seed) * np.float32(0.7)


def prompt(image_token: int, places: int, row: int, seed: int) -> list[int]:
    """A made-up prompt of one length for all rows: a few ordinary ids, the pictures' places, a few more."""
    first = image_token - SPECIAL_COUNT + 1
    words = np.abs(seeded.normal(f"words {row}", (7,), seed) * 1e4).astype(np.int64) % first
    return [*words[:3].tolist(), image_token - 2, *[image_token] * places, image_token - 1, *words[3:].tolist()]


def forced(image_token: int, rows: int, count: int, seed: int) -> NDArray[np.int64]:
    """Made-up ordinary ids [rows, count] to follow the prompt."""
    first = image_token - SPECIAL_COUNT + 1
    return np.abs(seeded.normal("tokens", (rows, count), seed) * 1e4).astype(np.int64) % first


# --- names: from transformers 5's, written down apart from the code that reads them


def published(name: str) -> str:
    """The names in stepfun-ai/GOT-OCR-2.0-hf."""
    if name.startswith("model.language_model."):
        return "language_model.model." + name.removeprefix("model.language_model.")
    return f"language_model.{name}" if name.startswith("lm_head") else name.removeprefix("model.")


def original(name: str) -> str:
    """The names in stepfun-ai/GOT-OCR2_0."""
    table = {
        "model.language_model.": "model.",
        "model.multi_modal_projector.conv_upsampler1": "model.vision_tower_high.net_2",
        "model.multi_modal_projector.conv_upsampler2": "model.vision_tower_high.net_3",
        "model.multi_modal_projector.multimodal_projector": "model.mm_projector_vary",
        "model.vision_tower.neck.conv1": "model.vision_tower_high.neck.0",
        "model.vision_tower.neck.layer_norm1": "model.vision_tower_high.neck.1",
        "model.vision_tower.neck.conv2": "model.vision_tower_high.neck.2",
        "model.vision_tower.neck.layer_norm2": "model.vision_tower_high.neck.3",
        "model.vision_tower.patch_embed.projection": "model.vision_tower_high.patch_embed.proj",
        "model.vision_tower.layers.": "model.vision_tower_high.blocks.",
        "model.vision_tower.": "model.vision_tower_high.",
    }
    for start, other in table.items():
        if name.startswith(start):
            return re.sub(r"(blocks\.\d+)\.layer_norm", r"\1.norm", other + name.removeprefix(start))
    return name


def community(name: str) -> str:
    """The names in the MLX community's conversions."""
    name = original(name)
    table = {
        "model.vision_tower_high.neck.0": "vision_tower.conv1",
        "model.vision_tower_high.neck.1": "vision_tower.norm1",
        "model.vision_tower_high.neck.2": "vision_tower.conv2",
        "model.vision_tower_high.neck.3": "vision_tower.norm2",
        "model.vision_tower_high.": "vision_tower.",
        "model.mm_projector_vary": "multi_modal_projector",
        "model.": "language_model.model.",
        "lm_head": "language_model.lm_head",
    }
    for start, other in table.items():
        if name.startswith(start):
            return other + name.removeprefix(start)
    return name
