"""The tokenizer and its special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from ocr_mlx.model.tokenizer import read_tokenizer

BEGIN: Final = "<｜begin▁of▁sentence｜>"
END: Final = "<｜end▁of▁sentence｜>"
BEGIN_ID: Final = 0
END_ID: Final = 1
_FROM_IMAGE: Final = (
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
)
"""These follow each other, from config.json's image token on: 128815 to 128824 as published."""
_SPOKEN: Final = frozenset(_FROM_IMAGE) - {"<image>", "<|grounding|>"}
"""Marked special, but part of what the model says."""


def special_ids(image_token: int) -> Mapping[str, int]:
    """The special tokens that the model needs, and where it expects them."""
    return {BEGIN: BEGIN_ID, END: END_ID} | {name: image_token + i for i, name in enumerate(_FROM_IMAGE)}


def read(folder: Path, image_token: int) -> Tokenizer:
    """The folder's tokenizer, changed in one thing: decoding keeps table and grounding tags, as upstream's does.

    Raises CheckpointIncomplete for a missing or damaged file, and for lost or misplaced special tokens.
    """
    tokenizer = read_tokenizer(folder, special_ids(image_token))
    description = json.loads(tokenizer.to_str())
    for token in description["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in _SPOKEN
    return Tokenizer.from_str(json.dumps(description))
