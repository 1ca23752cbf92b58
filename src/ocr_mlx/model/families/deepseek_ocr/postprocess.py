"""From the model's words to clean Markdown and blocks on the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ocr_mlx.domain import Block, Box, Page
from ocr_mlx.model.base import PageText
from ocr_mlx.model.families.deepseek_ocr.grounding import KINDS, Part, is_kind, split
from ocr_mlx.model.families.deepseek_ocr.modes import Reading

PICTURE: Final = "image"
WORDS: Final = "text"
_MANY_BLANK_LINES: Final = re.compile(r"\n{3,}")
_SIGNS: Final = ((r"\coloneqq", ":="), (r"\eqqcolon", "=:"))


def clean_page(raw: str, page: Page, reading: Reading) -> PageText:
    """The text without references, and a block for each of their boxes. Malformed output loses marks, never text.

    A region of kind `image` leaves `![](images/0.jpg)`, as upstream names its crops: counted over the page's blocks of
    that kind, on a PDF's pages behind the page's own index (`images/2_0.jpg`).
    """
    texts: list[str] = []
    blocks: list[Block] = []
    pictures = 0
    for part in split(raw):
        if _is_region(part, reading):
            if part.what == PICTURE:
                texts.extend(_picture(page, pictures + i) for i in range(len(part.boxes)))
                pictures += len(part.boxes)
            texts.append(part.text)
            blocks.extend(_blocks(part, part.what or WORDS, tidy(part.text), page))
        else:
            texts.append(_quote(part))
            label = part.what if reading in (Reading.PHRASE, Reading.ANY) else WORDS
            blocks.extend(_blocks(part, label or WORDS, tidy(part.what or ""), page))
    return PageText(text=tidy("".join(texts)), blocks=tuple(blocks))


def tidy(text: str) -> str:
    """Two signs that few renderers know spelled out, at most one blank line in a row, nothing at the ends."""
    for sign, plain in _SIGNS:
        text = text.replace(sign, plain)
    return _MANY_BLANK_LINES.sub("\n\n", text).strip()


def _is_region(part: Part, reading: Reading) -> bool:
    """Whether the reference names a kind of region; else it quotes words, which then are part of the text."""
    what, followed = part.what or "", bool(part.text.strip())
    if not part.quoted or not what:
        return True
    if what in KINDS:
        return followed or reading in (Reading.LAYOUT, Reading.ANY)
    return followed and bool(part.boxes) and reading is Reading.LAYOUT and is_kind(what)


def _quote(part: Part) -> str:
    """Quoted words in the text; a line break stands in where the model went straight on to the next quote."""
    return f"{part.what}{part.text or chr(10)}"


def _picture(page: Page, index: int) -> str:
    name = f"{page.index}_{index}" if page.origin == "pdf" else f"{index}"
    return f"![](images/{name}.jpg)\n"


def _blocks(part: Part, label: str, text: str, page: Page) -> Iterator[Block]:
    for left, top, right, bottom in part.boxes:
        box: Box = (left * page.width, top * page.height, right * page.width, bottom * page.height)
        yield Block(label=label, text=text, box=box, normalized=(left, top, right, bottom))
