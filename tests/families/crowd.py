"""The same text alone or in a crowd: rows that decode by themselves, among others, joining late, neighbours leaving early."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ocr_mlx.domain import DecodeParams
from ocr_mlx.inference.batch import DecodeBatch
from ocr_mlx.inference.stopping import Row, RowOutcome
from ocr_mlx.model.base import LoadedModel, ModelInputs

CROWD = 8
TIE = 1e-3
"""Log probabilities this close are a tie, which rounding may decide either way."""
Way = Callable[[LoadedModel, Sequence[ModelInputs], DecodeParams, int | None], list[RowOutcome]]


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A row that comes at a step and says so many tokens at most."""

    inputs: ModelInputs
    params: DecodeParams
    comes: int = 0


def talk(
    model: LoadedModel, guests: Sequence[Guest], width: int | None = None, places: int = CROWD
) -> list[RowOutcome]:
    """What the guests of one batch come to. Where all places are taken, the next ones wait for one that goes."""
    said: dict[int, RowOutcome] = {}
    waiting = deque(sorted(range(len(guests)), key=lambda i: guests[i].comes))
    batch, step = DecodeBatch(model, width=width), 0
    while waiting or batch.rows:
        joining: list[Row] = []
        while waiting and guests[waiting[0]].comes <= step and len(batch.rows) + len(joining) < places:
            joining.append(_row(model, guests, waiting.popleft(), said))
        batch.join(joining)
        batch.step()
        step += 1
    return [said[i] for i in range(len(guests))]


def _row(model: LoadedModel, guests: Sequence[Guest], i: int, said: dict[int, RowOutcome]) -> Row:
    return Row(
        model,
        guests[i].inputs,
        guests[i].params,
        on_text=lambda _delta, _tokens: None,
        on_done=lambda outcome: said.update({i: outcome}),
        cancel=threading.Event(),
    )


def alone(model: LoadedModel, rows: Sequence[ModelInputs], params: DecodeParams, width: int | None) -> list[RowOutcome]:
    """Each row in a batch of its own."""
    return [talk(model, [Guest(inputs=row, params=params)], width)[0] for row in rows]


def together(
    model: LoadedModel, rows: Sequence[ModelInputs], params: DecodeParams, width: int | None
) -> list[RowOutcome]:
    """All rows from the start."""
    return talk(model, [Guest(inputs=row, params=params) for row in rows], width)


def joining_late(
    model: LoadedModel, rows: Sequence[ModelInputs], params: DecodeParams, width: int | None
) -> list[RowOutcome]:
    """The last row first, each of the others some steps later."""
    last = len(rows) - 1
    return talk(model, [Guest(inputs=row, params=params, comes=3 * (last - i)) for i, row in enumerate(rows)], width)


def neighbours_leaving_early(
    model: LoadedModel, rows: Sequence[ModelInputs], params: DecodeParams, width: int | None
) -> list[RowOutcome]:
    """Every row once among others that leave one after the other, and stand before and behind it."""
    return [deserted(model, rows, params, width, i) for i in range(len(rows))]


def deserted(
    model: LoadedModel, rows: Sequence[ModelInputs], params: DecodeParams, width: int | None, i: int
) -> RowOutcome:
    """Row i, whose neighbours leave one after the other."""
    guests = [
        Guest(inputs=row, params=params if i == j else DecodeParams(max_new_tokens=1 + 2 * j))
        for j, row in enumerate(rows)
    ]
    return talk(model, guests, width)[i]


WAYS: tuple[Way, ...] = (together, joining_late, neighbours_leaving_early)


def identical(found: RowOutcome, expected: RowOutcome) -> bool:
    """Whether both said the same for the same numbers, to the bit."""
    return found == expected


def same_words(found: RowOutcome, expected: RowOutcome) -> bool:
    """Whether both said the same, whatever the last bits of their numbers."""
    return (found.tokens, found.text, found.finish) == (expected.tokens, expected.text, expected.finish)


def tied(found: RowOutcome, expected: RowOutcome) -> bool:
    """Whether the first token in which both differ was a tie."""
    pairs = zip(found.tokens, expected.tokens, found.logprobs, expected.logprobs, strict=False)
    for one, other, mine, theirs in pairs:
        if one != other:
            return abs(mine - theirs) < TIE
    return False
