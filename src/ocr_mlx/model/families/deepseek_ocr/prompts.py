"""From a mode and the user's words to the prompt's text and its ids."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from ocr_mlx.domain import Prompt
from ocr_mlx.errors import InvalidOption
from ocr_mlx.model.base import Mode
from ocr_mlx.model.families.deepseek_ocr.modes import IMAGE, PLACE, Reading
from ocr_mlx.model.families.deepseek_ocr.tokens import BEGIN_ID
from ocr_mlx.model.tokenizer import spelled

_REF = "<|ref|>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The text on both sides of the picture, and how the answer's references are meant."""

    before: str
    after: str
    reading: Reading

    def ids(self, tokenizer: Tokenizer, image_token: int, features: int) -> tuple[int, ...]:
        """The prompt's ids: begin, the text before, `features` image tokens, the text after.

        Each part is encoded by itself, as upstream does it, so that nothing is merged across the picture.
        """
        before, after = (spelled(tokenizer, part) for part in (self.before, self.after))
        return (BEGIN_ID, *before, *[image_token] * features, *after)


def question(prompt: Prompt, mode: Mode) -> Question:
    """What to ask: the mode's own prompt, the user's words in it, or the user's prompt instead of it.

    A prompt without `<image>` gets the picture and a line break in front, as upstream's own have it; white space at its
    ends goes. The model has no place for a system prompt. Raises InvalidOption for a mode that needs words and has none,
    and for a second `<image>`.
    """
    words = prompt.text.strip()
    fills = PLACE in mode.prompt
    if fills and not words:
        raise InvalidOption(f"Mode {mode.name!r} needs to be told what to look for.", hint="Give it as prompt.")
    if fills and not any(mark in words for mark in (_REF, IMAGE)):
        return _split(mode.prompt.replace(PLACE, words), mode.options["reading"])
    if words:
        return _split(words, mode.options["reading"] if fills else Reading.ANY)
    return _split(mode.prompt, mode.options["reading"])


def _split(text: str, reading: Reading) -> Question:
    before, image, after = text.partition(IMAGE)
    if not image:
        return Question(before="", after=f"\n{text}", reading=reading)
    if IMAGE in after:
        raise InvalidOption(f"The prompt has more than one {IMAGE}.", hint="One page goes into one prompt.")
    return Question(before=before, after=after, reading=reading)
