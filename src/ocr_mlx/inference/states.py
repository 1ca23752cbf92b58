"""What the graph holds of the rows of a batch, and how many of each row's tokens are in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import mlx.core as mx

from ocr_mlx.model.base import DecodeState, Graph

_TILE: Final = 4
"""Matrix kernels take rows by fours. What is left over goes another way, which rounds otherwise."""


def fixed_width(places: int) -> int:
    """The least width that holds so many rows and computes each of them alike, whichever of them it is."""
    return places if places < 2 else -(-places // _TILE) * _TILE


class RowStates:
    """A batch's decode state. `held[i]` counts row i's own tokens in it, its prompt not among them.

    With a `width` the graph always sees that many rows: where rows are missing, the first one stands in for them.
    """

    def __init__(self, graph: Graph, state: DecodeState, rows: int, width: int | None = None) -> None:
        self.held = [0] * rows
        self._graph = graph
        self._state = state
        self._width = width or 0
        if width is not None:
            state.stand_apart()

    @property
    def nbytes(self) -> int:
        """Bytes held for the rows."""
        return self._state.nbytes

    def arrays(self) -> list[mx.array]:
        """What to evaluate together with a step's tokens."""
        return self._state.arrays()

    def decode(self, tokens: mx.array) -> mx.array:
        """Append `tokens` [B, K]: logits [B, K, V]."""
        rows = len(self.held)
        self.held = [held + tokens.shape[1] for held in self.held]
        if rows >= self._width:
            return self._graph.decode(tokens, self._state)
        filled = self._filled(range(rows))
        if self._state.rows < self._width:
            self._state.keep(filled)
        return self._graph.decode(tokens[mx.array(filled)], self._state)[:rows]

    def trim_to(self, lengths: Sequence[int]) -> None:
        """Leave as many of each row's own tokens, and none that are not there."""
        counts = [held - length for held, length in zip(self.held, lengths, strict=True)]
        if any(counts):
            self._state.trim(self._filled(counts)[: self._state.rows])
            self.held = list(lengths)

    def merge(self, other: RowStates) -> None:
        """Append the other's rows behind these. The other is used up."""
        for states in (self, other):
            if states._state.rows > len(states.held):
                states._state.keep(range(len(states.held)))
        self._state.merge(other._state)
        self.held += other.held

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; one at least."""
        self._state.keep(rows)
        self.held = [self.held[row] for row in rows]

    def _filled(self, values: Sequence[int]) -> list[int]:
        return [*values, *[values[0]] * (self._width - len(values))]
