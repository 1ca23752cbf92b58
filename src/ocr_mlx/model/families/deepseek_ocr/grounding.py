"""The model's references: `<|ref|>what<|/ref|><|det|>[[x1, y1, x2, y2], ...]<|/det|>` and the text after them.

Unlimited-OCR writes `<|det|>what [x1, y1, x2, y2]<|/det|>` instead. Output may be cut off or wrong anywhere: marks that
make no reference go, what stands between them stays as text. One pass over the text, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, NamedTuple

from ocr_mlx.domain import Box

_MARK: Final = re.compile(r"<\|/?(?:ref|det)\|>")
_REF, _END_REF, _DET, _END_DET = "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"
_NUMBER: Final = r"\s*(-?[0-9]{1,9}(?:\.[0-9]{0,9})?)\s*"
_BOX: Final = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_COORDINATES: Final = re.compile(r"[\[\]0-9.,\s-]*")
_KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
LARGEST: Final = 999.0
"""Coordinates count from 0 to this across the page, in both directions."""
KINDS: Final = frozenset(
    "title sub_title text image image_caption image_footnote figure figure_caption figure_title chart table table_caption"
    " table_footnote equation formula interline_equation equation_number header footer page_number page_footnote footnote"
    " aside_text list code code_caption algorithm reference ref_text abstract index phonetic seal".split()
)
"""Names of kinds of regions that the models use."""


class _Mark(NamedTuple):
    name: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A reference and the text up to the next one. `boxes` go from 0 to 1, left, top, right, bottom.

    `what` is None for the text before the first reference; `quoted` says that it may be the page's own words.
    """

    what: str | None
    boxes: tuple[Box, ...]
    text: str
    quoted: bool = False


def is_kind(what: str) -> bool:
    """Whether this looks like the name of a kind of region, known or not."""
    return _KIND.fullmatch(what) is not None


def split(text: str) -> list[Part]:
    """The text as its references, in order; the first part is what stands before them. Never raises."""
    marks = [_Mark(found[0], found.start(), found.end()) for found in _MARK.finditer(text)]
    parts, texts = [Part(what=None, boxes=(), text="")], [[""]]
    for piece in _pieces(text, marks):
        if isinstance(piece, str):
            texts[-1].append(piece)
        else:
            parts.append(piece)
            texts.append([piece.text])
    return [replace(part, text="".join(pieces)) for part, pieces in zip(parts, texts, strict=True)]


def boxes_in(text: str) -> tuple[Box, ...]:
    """Every `[x1, y1, x2, y2]` in the text, however deep in other lists. Read by their looks, never evaluated."""
    return tuple(_box([float(number) for number in found.groups()]) for found in _BOX.finditer(text))


def _pieces(text: str, marks: Sequence[_Mark]) -> Iterator[str | Part]:
    """Plain text, and the references between it."""
    at = index = 0
    while index < len(marks):
        yield text[at : marks[index].start]
        reference, used = _reference(text, marks[index : index + 4])
        if reference is not None:
            yield reference
            at = marks[index + used - 1].end
        else:
            at = _after_broken(text, marks, index)
        index += used
    yield text[at:]


def _reference(text: str, marks: Sequence[_Mark]) -> tuple[Part | None, int]:
    """The reference that these marks begin with, and how many of them it takes."""
    names = tuple(mark.name for mark in marks)
    inner = [text[mark.end : after.start] for mark, after in pairwise(marks)]
    if names == (_REF, _END_REF, _DET, _END_DET) and not inner[1].strip():
        boxes = boxes_in(inner[2])
        kept = "" if boxes or inner[2].lstrip().startswith("[") else inner[2]
        return Part(what=inner[0].strip(), boxes=boxes, text=kept, quoted=True), 4
    if names[:2] == (_REF, _END_REF):
        return Part(what=inner[0].strip(), boxes=(), text="", quoted=True), 2
    if names[:2] == (_DET, _END_DET) and (boxes := boxes_in(inner[0])):
        what = inner[0].partition("[")[0].strip()
        return Part(what=what, boxes=boxes, text="", quoted=bool(what) and not is_kind(what)), 2
    return None, 1


def _after_broken(text: str, marks: Sequence[_Mark], index: int) -> int:
    """Where the text goes on behind a mark that makes no reference: coordinates, and a known kind, are no text."""
    mark, last = marks[index], index + 1 == len(marks)
    stop = len(text) if last else marks[index + 1].start
    inner = text[mark.end : stop]
    if mark.name == _DET and _COORDINATES.fullmatch(inner):
        return stop
    if mark.name == _REF and (inner.strip() in KINDS or (last and _is_cut_kind(inner))):
        return stop
    return mark.end


def _is_cut_kind(text: str) -> bool:
    """Whether the output ended within the name of a kind."""
    return any(kind.startswith(text) for kind in KINDS)


def _box(numbers: Sequence[float]) -> Box:
    """Kept on the page, and turned the right way round."""
    left, top, right, bottom = (min(max(number, 0.0), LARGEST) / LARGEST for number in numbers)
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)
