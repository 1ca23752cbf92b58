"""What the models can be asked, at which size they look at a page, and a mode for every combination. No libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ocr_mlx.domain import DecodeOverrides
from ocr_mlx.model.base import Mode

IMAGE: Final = "<image>"
PLACE: Final = "{text}"
"""Where the user's words go in a task's prompt."""
DEFAULT: Final = "document"
FULL: Final = "gundam"
"""The size with tiles: upstream's default, and the only one for which version 2 was published."""


class Reading(StrEnum):
    """What stands between `<|ref|>` and `<|/ref|>`: a kind of region, the words of a line, a phrase that was looked
    for, or any of them."""

    LAYOUT = "layout"
    WORDS = "words"
    PHRASE = "phrase"
    ANY = "any"


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A prompt that the model was trained with; `{text}` in it must be filled by the user."""

    description: str
    prompt: str
    reading: Reading = Reading.ANY
    overrides: DecodeOverrides = field(default_factory=DecodeOverrides)


TASKS: Final[Mapping[str, Task]] = {
    "document": Task(
        description="Markdown of a page, tables as HTML, with a box for every region",
        prompt="<image>\n<|grounding|>Convert the document to markdown.",
        reading=Reading.LAYOUT,
    ),
    "ocr": Task(
        description="The text of any picture, with a box for every line",
        prompt="<image>\n<|grounding|>OCR this image.",
        reading=Reading.WORDS,
    ),
    "free": Task(description="The text without layout and boxes", prompt="<image>\nFree OCR."),
    "figure": Task(description="The data of a chart, formula or drawing", prompt="<image>\nParse the figure."),
    "describe": Task(description="A description of the picture", prompt="<image>\nDescribe this image in detail."),
    "locate": Task(
        description="The box of what the prompt names (give it as prompt)",
        prompt="<image>\nLocate <|ref|>{text}<|/ref|> in the image.",
        reading=Reading.PHRASE,
    ),
    "parse": Task(
        description="Unlimited-OCR's own prompt: the text of a page with a box for every region",
        prompt="<image>document parsing.",
        reading=Reading.LAYOUT,
        overrides=DecodeOverrides(no_repeat_ngram=35, ngram_window=128, ngram_whitelist=()),
    ),
}

_SIZES: Final[Mapping[str, str]] = {
    FULL: "tiles of the page beside the whole of it",
    "tiny": "512 pixels, version 1",
    "small": "640 pixels, 768 in version 2, distorted to a square",
    "base": "1024 pixels",
    "large": "1280 pixels, version 1",
}


def all_modes() -> dict[str, Mode]:
    """Every task, every size, and every `task-size`, by name; a task alone has the full size, a size alone the default."""
    modes = {task: _mode(task, task, FULL) for task in TASKS}
    modes |= {size: _mode(size, DEFAULT, size) for size in _SIZES}
    modes |= {f"{task}-{size}": _mode(f"{task}-{size}", task, size) for task in TASKS for size in _SIZES}
    return modes


def _mode(name: str, task: str, size: str) -> Mode:
    asked = TASKS[task]
    return Mode(
        name=name,
        description=f"{asked.description}; {_SIZES[size]}",
        prompt=asked.prompt,
        overrides=asked.overrides,
        options={"size": size, "reading": asked.reading},
    )
