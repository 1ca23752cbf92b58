"""Boxes in the model's words. Coordinates are 0..1000 of the page's width and height.

LightOnOCR-3 marks every block, `![text](112,640,882,698) A paragraph`; what follows belongs to the block, up to the next
mark, and `![text+](...)` goes on where the last block ended. The bbox models mark pictures alone,
`![image](image_1.png) 100,200,300,400`.
"""

from __future__ import annotations

import re
from typing import Final

from ocr_mlx.domain import Block, Box
from ocr_mlx.model.base import PageText

_NUMBER: Final = r"(-?\d{1,9}(?:\.\d{1,9})?)"
_FOUR: Final = r"\s*,\s*".join([_NUMBER] * 4)
_MARK: Final = re.compile(rf"!\[([A-Za-z_][\w-]*)(\+?)\]\(\s*{_FOUR}\s*\)[ \t]*")
_PLACE: Final = r"(-?\d{1,4}(?:\.\d{1,9})?)"
_PLACES: Final = r"[ \t]*,[ \t]*".join([_PLACE] * 4)
_PICTURE: Final = re.compile(rf"(!\[([^\[\]\n]*)\]\(([^()\s]+)\))(?:[ \t]*\n)?[ \t]*{_PLACES}(?=[ \t]*$)", re.MULTILINE)
"""Nothing may follow on the line: numbers that a sentence begins with are words."""
_SCALE: Final = 1000.0


def is_grounded(raw: str) -> bool:
    """Whether the text holds a mark of a block."""
    return _MARK.search(raw) is not None


def grounded_text(raw: str, width: int, height: int) -> PageText:
    """Blocks of a page of that many pixels, and their texts as paragraphs, those that go on joined by a space.

    Words before the first mark are a paragraph of their own without a box.
    """
    marks = list(_MARK.finditer(raw))
    ends = [mark.start() for mark in marks[1:]] + [len(raw)]
    paragraphs = [raw[: marks[0].start()].strip()] if marks else [raw.strip()]
    blocks = []
    for mark, end in zip(marks, ends, strict=True):
        text = raw[mark.end() : end].strip()
        label, goes_on, *numbers = mark.groups()
        blocks.append(_block(label, text, numbers, width, height))
        if goes_on and text and paragraphs[-1]:
            paragraphs[-1] += f" {text}"
        else:
            paragraphs.append(text)
    return PageText(text="\n\n".join(part for part in paragraphs if part), blocks=tuple(blocks))


def pictured_text(raw: str, width: int, height: int) -> PageText:
    """The pictures' blocks, each named as in the text, and the text without their coordinates."""
    blocks = [
        _block(match[2] or "image", match[3], list(match.groups()[3:]), width, height)
        for match in _PICTURE.finditer(raw)
    ]
    return PageText(text=_PICTURE.sub(r"\1", raw).strip(), blocks=tuple(blocks))


def _block(label: str, text: str, numbers: list[str], width: int, height: int) -> Block:
    box = _normalized([min(max(float(number) / _SCALE, 0.0), 1.0) for number in numbers])
    left, top, right, bottom = box
    pixels = (left * width, top * height, right * width, bottom * height)
    return Block(label=label, text=text, box=pixels, normalized=box)


def _normalized(corners: list[float]) -> Box:
    """Two corners in any order as left, top, right, bottom."""
    x1, y1, x2, y2 = corners
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
