"""The tokenizer of a checkpoint and its special ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ocr_mlx.errors import CheckpointIncomplete
from ocr_mlx.model.folder import read_json

START, PAD, END, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
_AGAIN = "Take tokenizer.json from the original checkpoint."


def read_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """Read tokenizer.json, with the truncation and padding that it asks for switched off.

    Raises CheckpointIncomplete for a missing or damaged file, lost special tokens, or fewer ids than the graph has.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointIncomplete(f"tokenizer.json is missing in {folder.name}.", hint=_AGAIN)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointIncomplete(f"{path.name} is no tokenizer: {error}.", hint=_AGAIN) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    if lost := [name for name in (START, PAD, END, UNKNOWN) if name not in special]:
        raise CheckpointIncomplete(f"tokenizer.json lacks the special tokens {', '.join(lost)}.", hint=_AGAIN)
    if (size := tokenizer.get_vocab_size()) < vocabulary:
        raise CheckpointIncomplete(f"tokenizer.json has {size} ids, the model {vocabulary}.", hint=_AGAIN)
    return tokenizer


def special_id(tokenizer: Tokenizer, name: str) -> int:
    """The id of a special token that `read_tokenizer` has found there."""
    return int(tokenizer.token_to_id(name) or 0)


def end_token_ids(folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that end a page: generation_config.json's, else config.json's, else the tokenizer's own."""
    path = folder / "generation_config.json"
    decoder = config.get("decoder")
    places = (read_json(path) if path.is_file() else {}, config, decoder if isinstance(decoder, Mapping) else {})
    for place in places:
        found = place.get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        if ids and all(isinstance(value, int) for value in ids):
            return frozenset(ids)
    return frozenset({special_id(tokenizer, END)})
