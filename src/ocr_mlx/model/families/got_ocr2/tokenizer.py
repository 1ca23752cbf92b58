"""The tokenizer: tokenizer.json where there is one, else made from the original's `qwen.tiktoken`.

217 special tokens stand in one block behind the ranks, and the last of them holds the pictures' places.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ocr_mlx.errors import CheckpointIncomplete
from ocr_mlx.model.folder import data_file, member
from ocr_mlx.model.tokenizer import TOKENIZER, read_tokenizer

RANKS: Final = "qwen.tiktoken"
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_END, IMAGE_PAD = "<img>", "</img>", "<imgpad>"
SPECIAL: Final = (
    END_OF_TEXT,
    START,
    END,
    *(f"<|extra_{index}|>" for index in range(205)),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"),
    *(IMAGE_START, IMAGE_END, IMAGE_PAD),
)
"""In the order of their ids."""
_NEEDED: Final = (END_OF_TEXT, START, END, IMAGE_START, IMAGE_END, IMAGE_PAD)
_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen's tokenizer cuts text before it merges."""
_AGAIN: Final = f"Take {TOKENIZER} or {RANKS} from the original checkpoint."
Ranks = dict[bytes, int]


def special_ids(image_token: int) -> dict[str, int]:
    """The ids of all special tokens, counted back from the last one."""
    first = image_token - len(SPECIAL) + 1
    return {name: first + index for index, name in enumerate(SPECIAL)}


def read(folder: Path, image_token: int) -> Tokenizer:
    """The folder's tokenizer, which takes special tokens that are typed in a text for the letters they are made of.

    Raises CheckpointIncomplete where there is none, or one of another model.
    """
    ids = special_ids(image_token)
    if member(folder, TOKENIZER).is_file():
        needed = {name: ids[name] for name in _NEEDED}
        tokenizer = read_tokenizer(folder, needed, vocabulary=image_token + 1)
    elif member(folder, RANKS).is_file():
        tokenizer = from_ranks(read_ranks(folder, ids[END_OF_TEXT]), ids)
    else:
        raise CheckpointIncomplete(f"{folder.name} has neither {TOKENIZER} nor {RANKS}.", hint=_AGAIN)
    tokenizer.encode_special_tokens = True
    return tokenizer


def read_ranks(folder: Path, count: int) -> Ranks:
    """`qwen.tiktoken`: a token in base64 and its rank on each line, whatever ends the lines.

    Raises CheckpointIncomplete unless the ranks are 0 to `count` - 1, with all single bytes among the tokens.
    """
    ranks: Ranks = {}
    for number, line in enumerate(data_file(folder, RANKS).read_bytes().splitlines(), start=1):
        if not (parts := line.split()):
            continue
        try:
            token, rank = parts
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointIncomplete(f"{RANKS}: line {number} is no token with its rank.", hint=_AGAIN) from error
    if len(ranks) != count or sorted(ranks.values()) != list(range(count)):
        raise CheckpointIncomplete(f"{RANKS} does not hold the {count} tokens of this model.", hint=_AGAIN)
    if lost := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise CheckpointIncomplete(f"{RANKS} lacks the byte {lost[0]}.", hint=_AGAIN)
    return ranks


def from_ranks(ranks: Ranks, special: dict[str, int]) -> Tokenizer:
    """The tokenizer that encodes and decodes as tiktoken does with these ranks, byte for byte.

    tiktoken joins the neighbours whose whole has the lowest rank, and takes a word that is a token as it is: so every way
    to cut a token in two tokens is a merge, in the order of the whole's rank, and whole words are looked up first.
    """
    letters = _letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [
        (spelled[token[:cut]], spelled[token[cut:]])
        for token in sorted(ranks, key=ranks.__getitem__)
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return tokenizer


def _letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary: itself where it is visible, else one above 255."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]
