"""The chat template as ids. Special tokens go in by id, so that nothing in a user's words can become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from ocr_mlx.errors import CheckpointIncomplete
from ocr_mlx.model.families.qwen2_vl.config import Qwen2VLConfig
from ocr_mlx.model.tokenizer import eos_ids, read_tokenizer, spelled

START, END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
PICTURE, PICTURE_START, PICTURE_END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
SYSTEM: Final = "You are a helpful assistant."
"""What upstream's template says where there is no system prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """A tokenizer and the ids of the template's special tokens."""

    tokenizer: Tokenizer
    start: int
    end: int
    end_of_text: int
    picture: int
    picture_start: int
    picture_end: int

    def ids(self, pictures: Sequence[int], text: str, system: str = "") -> tuple[int, ...]:
        """The prompt for pictures of so many tokens each and a text behind them, up to where the answer begins."""
        shown = [id_ for count in pictures for id_ in (self.picture_start, *[self.picture] * count, self.picture_end)]
        break_ = self._words("\n")
        return (
            *(self.start, *self._words(f"system\n{system or SYSTEM}"), self.end, *break_),
            *(self.start, *self._words("user\n"), *shown, *self._words(text), self.end, *break_),
            *(self.start, *self._words("assistant\n")),
        )

    def _words(self, text: str) -> list[int]:
        return spelled(self.tokenizer, text)


def read_chat(folder: Path, config: Qwen2VLConfig) -> Chat:
    """Read tokenizer.json. Raises CheckpointIncomplete where it is missing or another model's."""
    wanted: dict[str, int | None] = {START: None, END: None, END_OF_TEXT: None}
    wanted |= {
        PICTURE: config.image_token_id,
        PICTURE_START: config.vision_start_token_id,
        PICTURE_END: config.vision_end_token_id,
    }
    tokenizer = read_tokenizer(folder, wanted)
    tokenizer.encode_special_tokens = True  # special tokens in a user's words stay words
    ids = {name: tokenizer.token_to_id(name) or 0 for name in wanted}
    if beyond := [name for name, id_ in ids.items() if id_ >= config.text.vocab_size]:
        raise CheckpointIncomplete(
            f"tokenizer.json has {', '.join(beyond)} beyond the model's {config.text.vocab_size} ids.",
            hint="Take tokenizer.json from the original checkpoint.",
        )
    return Chat(
        tokenizer=tokenizer,
        start=ids[START],
        end=ids[END],
        end_of_text=ids[END_OF_TEXT],
        picture=ids[PICTURE],
        picture_start=ids[PICTURE_START],
        picture_end=ids[PICTURE_END],
    )


def end_ids(folder: Path, config: Mapping[str, Any], chat: Chat) -> frozenset[int]:
    """The ids that end an answer. Both of the template's are among them: config.json alone names only the first."""
    return eos_ids(folder, config, ()) | {chat.end, chat.end_of_text}
