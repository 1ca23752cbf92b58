"""What the LightOnOCR goldens and their tests make alike: weights, pictures, prompts' tokenizers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.families import seeded

SIZES = {
    "page": (1654, 2339),
    "landscape": (2339, 1654),
    "letter": (1700, 2200),
    "limit": (1540, 1540),
    "above": (1541, 1541),
    "small": (90, 60),
    "exact": (280, 336),
    "pixel": (1, 1),
    "one_wide": (1, 1540),
    "one_high": (37, 1),
    "tall": (60, 5000),
    "wide": (4000, 90),
    "huge": (4200, 3100),
    "odd": (673, 897),
    "grey": (300, 420),
    "alpha": (333, 217),
    "palette": (411, 500),
    "bits": (200, 150),
}
"""Pictures by name: (width, height)."""
MODES = {"grey": "L", "palette": "P", "bits": "1"}
_TILE = 509
SAMPLE = 4999
"""Every so many values of a picture are kept."""

QWEN = {
    "<|endoftext|>": 280,
    "<|im_start|>": 281,
    "<|im_end|>": 282,
    "<|vision_pad|>": 283,
    "<|vision_end|>": 284,
    "<|image_pad|>": 290,
}
PRUNED = {
    "<|im_start|>": 0,
    "<|im_end|>": 1,
    "<|endoftext|>": 2,
    "<|box_start|>": 3,
    "<|box_end|>": 4,
    "<|object_ref_end|>": 5,
    "<|object_ref_start|>": 6,
    "<|image_pad|>": 7,
}
"""Special tokens and their ids: as the 1B models have them, in a small vocabulary, and exactly as the 0.9B models do."""
MERGES = ("s y", "s t", "e m", "u s", "e r", "us er", "sy st", "syst em", "\\ n", "a s", "as s")
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def weights(shapes: Iterable[tuple[str, tuple[int, ...]]], seed: int) -> dict[str, NDArray[np.float32]]:
    """As `seeded.weights`; the tower's first norm, which does not call itself one, near one too."""
    made = seeded.weights(shapes, seed)
    for name, values in made.items():
        if name.endswith("ln_pre.weight"):
            made[name] = np.float32(1) + np.float32(0.1) * seeded.normal(name, values.shape, seed)
    return made


def pixels(number: int, size: tuple[int, int], seed: int) -> NDArray[np.float32]:
    """Picture `number` of a tiny case, [height, width, 3]; `size` is (height, width)."""
    return seeded.normal(f"pixels {number}", (*size, 3), seed)


def tokens(row: int, count: int, case_seed: int, vocabulary: int, image_token: int) -> list[int]:
    """Made-up text ids of a row, none of them the image token."""
    chosen = np.abs(seeded.normal(f"tokens {row}", (count,), case_seed) * 1e4).astype(np.int64) % vocabulary
    return [int(id_) if id_ != image_token else int(id_) - 1 for id_ in chosen]


def picture(name: str) -> Image.Image:
    """A made-up page: strokes on coloured paper over and over, in the mode that its name stands for."""
    width, height = SIZES[name]
    grain = seeded.normal(f"picture {name}", (_TILE, _TILE), 5)
    ink = (grain > 0.2) & (np.arange(_TILE)[:, None] // 9 % 3 == 0)
    shade = np.clip(60 + grain * 20 + np.arange(_TILE) // 6, 0, 255)
    tile = np.stack([np.where(ink, shade, 250), np.where(ink, shade // 2, 244), np.where(ink, 255 - shade, 230)], -1)
    repeated = np.tile(tile.astype(np.uint8), (height // _TILE + 1, width // _TILE + 1, 1))
    image = Image.fromarray(np.ascontiguousarray(repeated[:height, :width]))
    if name == "alpha":
        slope = (np.arange(height)[:, None] + np.arange(width)) % 256
        image.putalpha(Image.fromarray(slope.astype(np.uint8)))
        return image
    return image.convert(MODES.get(name, "RGB"))


def sizes() -> list[tuple[int, int]]:
    """(width, height) of many pictures, some of them long and thin."""
    made = np.abs(seeded.normal("sizes", (500, 2), 11)) * np.array([1500, 1500]) + 1
    made[::7, 0] = made[::7, 0] // 40 + 1
    made[::11, 1] = made[::11, 1] // 25 + 1
    return [(int(width), int(height)) for width, height in made]


def digest(values: NDArray[np.float32], mean: NDArray[np.float32], std: NDArray[np.float32]) -> int:
    """A checksum of the grey levels 0..255 that normalised values [height, width, 3] came from."""
    levels = np.rint((values * std + mean) * 255).astype(np.uint8)
    return crc32(np.ascontiguousarray(levels).tobytes())


def sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values spread over the whole picture."""
    return np.ascontiguousarray(values.reshape(-1)[::SAMPLE])


def write_tokenizer(folder: Path, special: dict[str, int], size: int = 300) -> None:
    """A tokenizer.json of so many ids that cuts text as Qwen2's does, with these special tokens at these ids."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    free = iter([id_ for id_ in range(size) if id_ not in special.values()])
    vocabulary = dict(special)
    for piece in pieces:
        vocabulary[piece] = next(free)
    vocabulary |= {f"Ġw{id_}": id_ for id_ in free}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    tokenizer.save(str(folder / "tokenizer.json"))
