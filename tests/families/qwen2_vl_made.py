"""What the Qwen2-VL goldens and their tests make alike: weights, pictures, and a small tokenizer with Qwen2's own tokens."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.families import seeded

SIZES = {
    "page": (827, 1169),
    "landscape": (1169, 827),
    "exact": (280, 392),
    "one_token": (28, 28),
    "dot": (1, 1),
    "one_wide": (1, 200),
    "one_high": (200, 1),
    "two_wide": (2, 399),
    "narrow": (7, 1400),
    "flat": (1400, 7),
    "half_down": (42, 98),
    "half_up": (70, 126),
    "thin": (13, 300),
    "small": (90, 60),
    "odd": (613, 411),
    "square": (500, 500),
    "grey": (300, 420),
    "white": (320, 240),
    "just_over": (1001, 1003),
    "large": (2339, 1654),
    "huge": (5000, 3600),
}
"""Pictures by name: (width, height)."""
MARKS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen2-VL's special tokens in the order of their ids, in the published file from 151643 on."""
WORDS = ("th", "he", "the", "in", "er", "an", "Ġt", "Ġthe", "ĠØ", "ÙĦ", "Ø§")
FIRST_MARK = 256 + len(WORDS)
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def mark(name: str) -> int:
    """The id of a special token in the small tokenizer."""
    return FIRST_MARK + MARKS.index(name)


def tokenizer(first_mark: int = FIRST_MARK, marks: tuple[str, ...] = MARKS) -> Tokenizer:
    """Bytes, a few merges, Qwen2's way to split and its special tokens, the first of them at this id."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    unused = [f"<unused {index}>" for index in range(FIRST_MARK, first_mark)]
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, *WORDS, *unused])}
    made = Tokenizer(models.BPE(vocabulary, [_merge(word, vocabulary) for word in WORDS]))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in marks])
    return made


def _merge(word: str, vocabulary: dict[str, int]) -> tuple[str, str]:
    return next((word[:at], word[at:]) for at in range(1, len(word)) if {word[:at], word[at:]} <= vocabulary.keys())


def picture(size: tuple[int, int], name: str = "") -> NDArray[np.uint8]:
    """A made-up page [height, width, 3] of this (width, height): bands of coloured strokes, or as the name says."""
    width, height = size
    if name == "white":
        return np.full((height, width, 3), 255, dtype=np.uint8)
    noise = seeded.normal(f"picture {width} {height} {name}", (height, width), 5)
    band = np.arange(height)[:, None] // max(1, height // 37) % 3 == 0
    ink = np.clip(np.where(band, 70 + noise * 60, 235 + noise * 12), 0, 255).astype(np.uint8)
    if name == "grey":
        return np.stack([ink] * 3, -1)
    tint = (np.arange(width) * 255 // width).astype(np.uint8)[None]
    return np.stack([ink, ink // 2 + tint // 2, 255 - ink // 3], -1)


def levels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Normalised values [..., 3] as the grey levels 0..255 they came from."""
    return np.rint((values * STD + MEAN) * 255).astype(np.uint8)


def checksum(values: NDArray[np.float32]) -> int:
    """Of all grey levels of a picture [height, width, 3]."""
    return zlib.crc32(np.ascontiguousarray(levels(values)).tobytes())


def sample(values: NDArray[np.float32], count: int = 600) -> NDArray[np.float32]:
    """Values spread over the whole array."""
    flat = values.reshape(-1)
    return np.ascontiguousarray(flat[:: max(1, flat.size // count)])


def weights(shapes: Iterable[tuple[str, tuple[int, ...]]], seed: int) -> dict[str, NDArray[np.float32]]:
    """Random weights under published names: norms near one, small biases, matrices scaled by their fan-in."""
    return {name: scaled(name, seeded.normal(name, tuple(shape), seed)) for name, shape in shapes}


def scaled(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard normal numbers as weights of this name."""
    if values.ndim == 1:
        around = 1.0 if name.endswith("weight") else 0.0
        return np.float32(around) + np.float32(0.1) * values
    if name == "model.embed_tokens.weight":
        return np.float32(0.3 if values.shape[1] < 256 else 0.02) * values  # wide ones repeat themselves the sooner
    return values * np.float32(1.3 / np.sqrt(values[0].size))
