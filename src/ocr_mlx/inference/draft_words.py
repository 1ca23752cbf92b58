"""Which of a text belongs to which row: the words that stand in a row's part of the page, or a line of an earlier text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from ocr_mlx.domain import Box, Word
from ocr_mlx.model.base import PreparedPage

_LIGATURES: Final = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\u00ad": None, "\u200b": None}
)
_WHOLE: Final = 0.9
_SOME: Final = 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class RowText:
    """What a row may say. `start` is about where in `text` it begins, from 0 to 1."""

    text: str
    start: float = 0.0


def from_layer(words: Sequence[Word], prepared: PreparedPage) -> list[RowText]:
    """Each row's words: those in its box from left to right, or all in the file's own order where rows have no boxes."""
    if not prepared.boxes:
        whole = RowText(text=_flowing(words))
        return [whole for _ in prepared.rows]
    places = np.array([word.box for word in words], dtype=np.float64).reshape(-1, 4)
    return [RowText(text=_inside(words, places, box)) for box in prepared.boxes]


def from_earlier(text: str, prepared: PreparedPage, *, whole: bool) -> list[RowText] | None:
    """Each row's part of an earlier raw text of the same page; None where the rows cannot be told apart in it.

    Rows of one line share the line's text, and each begins about where its box does. Unless it must be `whole`, the text may
    end early; rows behind its end have nothing to say.
    """
    if len(prepared.rows) == 1:
        return [RowText(text=text)]
    numbers = list(accumulate(glue.count("\n") for glue in prepared.glue))
    lines = text.split("\n")
    missing = numbers[-1] + 1 - len(lines) if numbers else 0
    if not prepared.boxes or missing < 0 or (whole and missing):
        return None
    lines += [""] * missing
    starts = _starts(numbers, prepared.boxes)
    return [RowText(text=lines[number], start=start) for number, start in zip(numbers, starts, strict=True)]


def plain(text: str) -> str:
    """Composed characters, no ligatures, no invisible hyphens: what a model writes."""
    return unicodedata.normalize("NFC", text.translate(_LIGATURES))


def _starts(numbers: Sequence[int], boxes: Sequence[Box]) -> list[float]:
    widths: dict[int, float] = {}
    before = []
    for number, (left, _, right, _) in zip(numbers, boxes, strict=True):
        before.append(widths.get(number, 0.0))
        widths[number] = before[-1] + right - left
    return [begun / max(widths[number], 1.0) for number, begun in zip(numbers, before, strict=True)]


def _flowing(words: Sequence[Word]) -> str:
    """All words; a line feed where the next one stands further left or on another height, a space elsewhere."""
    if not words:
        return ""
    gaps = ["\n" if _new_line(a.box, b.box) else " " for a, b in pairwise(words)]
    return plain("".join(word.text + gap for word, gap in zip(words, [*gaps, ""], strict=True)))


def _new_line(before: Box, after: Box) -> bool:
    middle = (after[1] + after[3]) / 2
    return after[0] < before[0] or (not before[1] - 2 <= middle <= before[3] + 2 and after[1] > before[3])


def _inside(words: Sequence[Word], places: np.ndarray[tuple[int, ...], np.dtype[np.float64]], box: Box) -> str:
    """The words in a box of one line; of a word that reaches out of it, about the part inside."""
    left, top, right, bottom = box
    middle = (places[:, 1] + places[:, 3]) / 2
    shared = np.minimum(places[:, 2], right) - np.maximum(places[:, 0], left)
    wide = np.maximum(places[:, 2] - places[:, 0], 1e-6)
    near = np.flatnonzero(
        (middle >= top - 1) & (middle <= bottom + 1) & (shared > _SOME * np.minimum(wide, right - left))
    )
    parts = []
    for i in near[np.argsort(places[near, 0], kind="stable")]:
        text, share = words[i].text, shared[i] / wide[i]
        if share < _WHOLE:
            begin = round(len(text) * max(0.0, left - places[i, 0]) / wide[i])
            text = text[begin : begin + max(1, round(len(text) * share))]
        parts.append(text)
    return plain(" ".join(parts))
