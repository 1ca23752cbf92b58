"""The running batch: rows join as they arrive, take one step together, and leave as they end.

The loop computes one step ahead: while the host looks at step t's tokens, step t + 1 is already under way. A row that ends
at t has then been computed once too often, which costs a row of one step and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import mlx.core as mx
import numpy as np

from ocr_mlx.domain import Finish
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.inference.failure import as_error
from ocr_mlx.inference.sampling import Choice, choose, concatenate, mask
from ocr_mlx.inference.stopping import Row
from ocr_mlx.model.base import DecodeState, LoadedModel


class DecodeBatch:
    """All rows of one model that decode together. Not thread-safe: the thread that owns the arrays owns this."""

    def __init__(self, model: LoadedModel) -> None:
        self.rows: list[Row] = []
        self._graph = model.graph
        self._suppressed = model.processor.suppress_token_ids
        self._state: DecodeState | None = None
        self._next: Choice | None = None
        self._banned: mx.array | None = None

    @property
    def cache_bytes(self) -> int:
        """Bytes held for the rows in the batch."""
        return self._state.nbytes if self._state is not None else 0

    def join(self, rows: Sequence[Row]) -> None:
        """Read the rows' pictures and prompts, those of one shape in one pass, and add them to the batch."""
        for _, group in groupby(sorted(rows, key=_shape), key=_shape):
            self._join_alike(list(group))

    def step(self) -> None:
        """One more token for every row; ended rows have left when this returns."""
        self._leave([i for i, row in enumerate(self.rows) if row.cancel.is_set()], Finish.CANCELLED)
        if not self.rows or self._next is None or self._state is None:
            return
        now = self._next
        ahead = not any(row.last_step or row.sampler.needs_history for row in self.rows)
        if ahead:
            self._next = self._advance(now, self._state)
        _read(now, self.rows)
        self._keep_live()
        if not ahead and self.rows:
            self._next = self._advance(self._next, self._state)

    def clear(self, error: OcrMlxError) -> None:
        """End all rows with this error and drop their state."""
        for row in self.rows:
            row.end(Finish.ERROR, error)
        self._keep_live()

    def _join_alike(self, rows: list[Row]) -> None:
        rows = [row for row in rows if _ready(row)]
        if not rows:
            return
        try:
            logits, state = self._graph.prefill([row.inputs for row in rows])
            first = self._choose(logits, rows)
            mx.eval(first.arrays(), state.arrays())
        except Exception as problem:  # one picture's trouble must not reach the rows that already run
            if len(rows) > 1:  # nor those that were read with it
                for row in rows:
                    self._join_alike([row])
            else:
                _fail(rows, problem)
            return
        self._append(rows, first, state)

    def _append(self, rows: list[Row], first: Choice, state: DecodeState) -> None:
        if self._state is None or self._next is None:
            self._state, self._next = state, first
        else:
            self._state.merge(state)
            self._next = concatenate([self._next, first])
        self.rows.extend(rows)

    def _advance(self, choice: Choice, state: DecodeState) -> Choice:
        logits = self._graph.decode(choice.tokens[:, None], state)[:, 0]
        following = self._choose(logits, self.rows)
        mx.async_eval(following.arrays(), state.arrays())
        return following

    def _choose(self, logits: mx.array, rows: Sequence[Row]) -> Choice:
        if self._banned is None:
            self._banned = mask(self._suppressed, logits.shape[-1])
        return choose(logits, [row.sampler for row in rows], [row.tokens for row in rows], self._banned)

    def _leave(self, indices: Sequence[int], finish: Finish) -> None:
        for i in indices:
            self.rows[i].end(finish)
        if indices:
            self._keep_live()

    def _keep_live(self) -> None:
        live = [i for i, row in enumerate(self.rows) if not row.done]
        if len(live) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in live]
        if not live:
            self._state = self._next = None
            return
        if self._state is not None:
            self._state.keep(live)
        if self._next is not None and self._next.tokens.shape[0] != len(live):
            self._next = self._next.take(live)


def _shape(row: Row) -> tuple[Any, ...]:
    """What must be alike for rows to be read together; of values that can be sorted."""
    inputs = row.inputs
    extras = [(name, *value.shape) for name, value in sorted(inputs.extras.items()) if isinstance(value, np.ndarray)]
    return (inputs.pixels.shape if inputs.pixels is not None else (), len(inputs.token_ids), extras)


def _ready(row: Row) -> bool:
    """Ends rows that must not enter the batch."""
    if row.done:
        return False
    if row.cancel.is_set():
        row.end(Finish.CANCELLED)
        return False
    try:
        row.check_fits()
    except OcrMlxError as problem:
        row.end(Finish.ERROR, problem)
        return False
    return True


def _read(choice: Choice, rows: Sequence[Row]) -> None:
    """Bring one step's tokens to the host and hand each row its own; a row that raises fails alone."""
    tokens, logprobs, tops = (np.asarray(array).tolist() for array in choice.arrays())
    for row, token, logprob, top in zip(rows, tokens, logprobs, tops, strict=True):
        try:
            row.accept(token, logprob, top)
        except Exception as problem:  # whatever one row's test or text does must not reach its neighbours
            _fail([row], problem)


def _fail(rows: Sequence[Row], problem: Exception) -> None:
    error = as_error(problem, "decoding a page")
    for row in rows:
        row.end(Finish.ERROR, error)
