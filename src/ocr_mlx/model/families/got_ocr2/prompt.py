"""What is asked: the conversation that the model was trained with, and the queries for a region or a colour.

Source: `GOT/utils/conversation.py` (`conv_mpt`) and `chat` of the original.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from tokenizers import Tokenizer

from ocr_mlx.domain import Prompt
from ocr_mlx.errors import InvalidOption
from ocr_mlx.model.base import Mode
from ocr_mlx.model.families.got_ocr2.tokenizer import END, IMAGE_END, IMAGE_PAD, IMAGE_START, START
from ocr_mlx.model.tokenizer import spelled

SYSTEM: Final = "You should follow the instructions carefully and explain your answers in detail."
COLORS: Final = ("red", "green", "blue")
_SCALE: Final = 1000
_SEPARATORS: Final = re.compile(r"[\s,;]+")


def query(prompt: Prompt, mode: Mode, size: tuple[int, int]) -> str:
    """The task in words. `size` is the page's (width, height) in pixels.

    Where the mode wants a region or a colour, the prompt's text names it; elsewhere a text of its own replaces the mode's.
    Raises InvalidOption for a region or colour that cannot be.
    """
    kind = mode.options.get("asks")
    if kind == "box":
        return f"{region(prompt.text, mode.name, size)} {mode.prompt}"
    if kind == "color":
        return f"[{color(prompt.text, mode.name)}] {mode.prompt}"
    return prompt.text or mode.prompt


def region(text: str, mode: str, size: tuple[int, int]) -> list[int]:
    """`x1,y1,x2,y2` or `x,y` in page pixels as thousandths of the page's width and height."""
    width, height = size
    hint = (
        f"Give the mode {mode!r} a box x1,y1,x2,y2 or a point x,y as its prompt, in pixels of the page"
        f" ({width} x {height}), x1 left of x2 and y1 above y2."
    )
    try:
        numbers = [float(part) for part in _SEPARATORS.split(text.strip(" \t\r\n[]()"))]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 4) or not all(map(math.isfinite, numbers)):
        raise InvalidOption(f"{text!r} is no box." if text.strip() else "A box is needed.", hint=hint)
    across, down = numbers[::2], numbers[1::2]
    inside = all(0 <= x <= width for x in across) and all(0 <= y <= height for y in down)
    if not inside or (len(numbers) == 4 and not (across[0] < across[1] and down[0] < down[1])):
        raise InvalidOption(f"{text!r} is no box on this page.", hint=hint)
    scaled = zip(across, down, strict=True)
    return [int(part) for x, y in scaled for part in (x / width * _SCALE, y / height * _SCALE)]


def color(text: str, mode: str) -> str:
    """One of the three colours that the model knows."""
    name = text.strip().strip("[]").lower()
    if name not in COLORS:
        wanted = f"Give the mode {mode!r} one of {', '.join(COLORS)} as its prompt."
        raise InvalidOption(f"{text!r} is no colour here." if name else "A colour is needed.", hint=wanted)
    return name


def conversation(
    tokenizer: Tokenizer, special: Mapping[str, int], text: str, places: int, system: str = ""
) -> tuple[int, ...]:
    """The ids of the whole conversation up to the answer, with `places` ids for the pictures.

    `special` are the special tokens' ids. Raises InvalidOption where nothing is asked.
    """
    if not text.strip():
        raise InvalidOption("The prompt is empty.", hint="Leave it out, or ask for something.")

    def words(part: str) -> list[int]:
        return spelled(tokenizer, part)

    start, end = special[START], special[END]
    pictures = [special[IMAGE_START], *[special[IMAGE_PAD]] * places, special[IMAGE_END]]
    return (
        *(start, *words(f"system\n{system or SYSTEM}"), end),
        *(start, *words("user\n"), *pictures, *words(f"\n{text}"), end),
        *(start, *words("assistant\n")),
    )
