"""A checkpoint's tokenizer.json and its end tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from ocr_mlx.errors import CheckpointIncomplete
from ocr_mlx.model.folder import member, read_json

TOKENIZER = "tokenizer.json"
_GENERATION = "generation_config.json"
_AGAIN = "Take tokenizer.json from the original checkpoint."
_MOST_BYTES: Final = 100_000_000
_PANICS: Final = "pyo3_runtime"
"""The module of what the library raises where its own code gives up: no Exception, so that it would end a whole thread."""


def read_tokenizer(folder: Path, special: Mapping[str, int | None], *, vocabulary: int | None = None) -> Tokenizer:
    """Read tokenizer.json, with the truncation and padding that it asks for switched off.

    Each of the `special` tokens must be there as an added token, with its id unless that is None. `vocabulary` is how
    many ids the graph has, where the tokenizer must know all of them.
    Raises CheckpointIncomplete for a missing or damaged file, lost or misplaced special tokens, or too few ids.
    """
    path = member(folder, TOKENIZER)
    if not path.is_file():
        raise CheckpointIncomplete(f"{TOKENIZER} is missing in {folder.name}.", hint=_AGAIN)
    if path.stat().st_size > _MOST_BYTES:
        raise CheckpointIncomplete(f"{TOKENIZER} is larger than any such file.", hint=_AGAIN)
    try:
        with unbroken():
            tokenizer = Tokenizer.from_file(str(path))
    except CheckpointIncomplete:
        raise
    except Exception as error:  # the library raises plain Exception
        raise CheckpointIncomplete(f"{TOKENIZER} is no tokenizer: {error}.", hint=_AGAIN) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    check_special(tokenizer, special)
    if vocabulary is not None and (size := tokenizer.get_vocab_size()) < vocabulary:
        raise CheckpointIncomplete(f"{TOKENIZER} has {size} ids, the model {vocabulary}.", hint=_AGAIN)
    return tokenizer


@contextmanager
def unbroken() -> Iterator[None]:
    """Around any use of a tokenizer: CheckpointIncomplete where its own rules make the library give up."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != _PANICS:
            raise
        raise CheckpointIncomplete(f"{TOKENIZER} has rules that cannot be followed.", hint=_AGAIN) from error


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text, no special tokens around it. Raises CheckpointIncomplete as `unbroken` does."""
    with unbroken():
        return list(tokenizer.encode(text, add_special_tokens=False).ids)


def check_special(tokenizer: Tokenizer, special: Mapping[str, int | None]) -> None:
    """Raise CheckpointIncomplete unless each of these is an added token, with its id unless that is None."""
    added = {token.content: id_ for id_, token in tokenizer.get_added_tokens_decoder().items()}
    if lost := [name for name in special if name not in added]:
        raise CheckpointIncomplete(f"{TOKENIZER} lacks the special tokens {', '.join(lost)}.", hint=_AGAIN)
    for name, wanted in special.items():
        if wanted is not None and added[name] != wanted:
            raise CheckpointIncomplete(
                f"{TOKENIZER} has {name} at {added[name]}, the model expects it at {wanted}.", hint=_AGAIN
            )


def token_id(tokenizer: Tokenizer, name: str) -> int:
    """The id of a token that `read_tokenizer` has found there. Raises KeyError for another."""
    found = tokenizer.token_to_id(name)
    if found is None:
        raise KeyError(name)
    return int(found)


def eos_ids(folder: Path, config: Mapping[str, Any], default: Iterable[int]) -> frozenset[int]:
    """The ids that end a text: generation_config.json's, else those of config.json or its part for text, else `default`."""
    path = member(folder, _GENERATION)
    parts = (config.get(name) for name in ("text_config", "language_config", "decoder"))
    inner = (part for part in parts if isinstance(part, Mapping))
    for place in (read_json(path) if path.is_file() else {}, config, *inner):
        found = place.get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        if ids and all(isinstance(value, int) for value in ids):
            return frozenset(ids)
    return frozenset(default)
