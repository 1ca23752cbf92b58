"""Small tokenizers of the DeepSeek-OCR models' kind: byte level, with the same special tokens behind the image token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.pre_tokenizers import ByteLevel

FIRST = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>")
LAST = (
    "<image>",
    "<|ref|>",
    "<|/ref|>",
    "<|det|>",
    "<|/det|>",
    "<|grounding|>",
    "<td>",
    "</td>",
    "<tr>",
    "</tr>",
    "<|User|>",
    "<|Assistant|>",
)
MERGES = ("Ġ O", "C R", "ĠO CR", "o n", "i n", "t h", "Ġ th", "Ġth e")
PUBLISHED_IMAGE = 128815


def image_token(config: dict[str, Any]) -> int:
    """The id of `<image>` that a config.json asks for."""
    return int(config.get("image_token_id") or PUBLISHED_IMAGE)


def write_tokenizer(folder: Path, last: Sequence[str] = LAST) -> Tokenizer:
    """Write tokenizer.json beside a config.json: `<image>` has the config's id, the other special ones follow.

    Below it are bytes (the printable ones first, all where there is room), a few merges, and words that no text is made of.
    """
    config = json.loads((folder / "config.json").read_text())
    found = tokenizer(image_token(config), last)
    found.save(str(folder / "tokenizer.json"))
    return found


def tokenizer(image: int, last: Sequence[str] = LAST) -> Tokenizer:
    """A tokenizer whose image token has this id."""
    words = [*FIRST, *_bytes()][:image]
    merged = ["".join(pair.split()) for pair in MERGES]
    fits = len(words) + len(merged) <= image
    words += merged if fits else []
    words += [f"Ġw{index}" for index in range(image - len(words))]
    pairs = [tuple(pair.split()) for pair in MERGES] if fits else []
    made = Tokenizer(models.BPE(vocab={word: id_ for id_, word in enumerate(words)}, merges=pairs))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.decoder = Decoder()
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (*FIRST, *last)])
    return made


def _bytes() -> list[str]:
    """The alphabet of byte-level tokenizers, printable ASCII, space and line break first."""
    alphabet = sorted(ByteLevel.alphabet(), key=ord)
    plain = [chr(code) for code in range(33, 127)]
    first = [*plain, "Ġ", "Ċ"]
    return [*first, *(letter for letter in alphabet if letter not in set(first))]
