"""The chat template, as ids: special tokens by id, words by the tokenizer.

    <|im_start|>system<|im_end|>
    <|im_start|>user
    <|image_pad|>...the user's text, if any
    <|im_end|>
    <|im_start|>assistant

The published templates differ in two places, which are read from the template itself: what ends a line, and whether a line
ends behind the user's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from ocr_mlx.model.folder import member, read_json
from ocr_mlx.model.tokenizer import spelled

START: Final = "<|im_start|>"
END: Final = "<|im_end|>"
IMAGE: Final = "<|image_pad|>"
TEXT_END: Final = "<|endoftext|>"
_TEMPLATE: Final = "chat_template.jinja"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatStyle:
    """`line` ends a line, `tail` follows the user's text."""

    line: str = "\n"
    tail: str = "\n"

    @staticmethod
    def read(folder: Path) -> ChatStyle:
        """The style of a folder's chat template, the 1B models' own where there is none.

        The 0.9B models' templates end lines with a backslash and an n: that is what upstream renders for them.
        """
        template = _template(folder)
        if template is None:
            return ChatStyle()
        line = "\\n" if f"{END}\\n" in template else "\n"
        return ChatStyle(line=line, tail=line if "content['text'] }}\n" in template else "")


class ChatPrompt:
    """Builds a prompt's ids. The tokenizer must take special tokens in a text for plain words."""

    def __init__(self, tokenizer: Tokenizer, style: ChatStyle) -> None:
        self._tokenizer = tokenizer
        self._style = style
        self._start, self._end, self._image = (tokenizer.token_to_id(name) or 0 for name in (START, END, IMAGE))

    def ids(self, image_tokens: Sequence[int], text: str = "", system: str = "") -> tuple[int, ...]:
        """The prompt for pictures of so many tokens each, one behind the other."""
        line, words = self._style.line, self._words
        return (
            self._start,
            *words(f"system{line}{system}" if system else "system"),
            self._end,
            *words(line),
            self._start,
            *words(f"user{line}"),
            *(self._image for count in image_tokens for _ in range(count)),
            *words(text + self._style.tail if text else ""),
            self._end,
            *words(line),
            self._start,
            *words(f"assistant{line}"),
        )

    def _words(self, text: str) -> list[int]:
        return spelled(self._tokenizer, text)


def _template(folder: Path) -> str | None:
    path = member(folder, _TEMPLATE)
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = member(folder, name)
        found = _string(read_json(path)) if path.is_file() else None
        if found is not None:
            return found
    return None


def _string(values: Mapping[str, Any]) -> str | None:
    found = values.get("chat_template")
    return found if isinstance(found, str) else None
