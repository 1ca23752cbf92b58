"""The running batch: rows join as they arrive, take one step together, and leave as they end.

The loop computes one step ahead: while the host looks at step t's tokens, step t + 1 is already under way. A row that ends
at t has then been computed once too often, which costs a row of one step and changes nothing. Where a row has a draft, its
token must be known first; then one pass verifies several tokens at once.

Between two steps one of two things holds for every row. Either `_next` is its next token, chosen but not handed to it yet,
and the state holds all of its tokens; or there is no `_next`, and the state holds all but its last token, and perhaps more
that is still to be trimmed: drafted tokens that were wrong, and a loop that was taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import mlx.core as mx
import numpy as np

from ocr_mlx.domain import Finish
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.inference import verify
from ocr_mlx.inference.draft_worth import Pace
from ocr_mlx.inference.failure import as_error
from ocr_mlx.inference.sampling import Choice, choose, concatenate, mask
from ocr_mlx.inference.states import RowStates
from ocr_mlx.inference.stopping import Row
from ocr_mlx.model.base import DecodeState, LoadedModel

Shape = tuple[Any, ...]


class DecodeBatch:
    """All rows of one model that decode together. Not thread-safe: the thread that owns the arrays owns this."""

    def __init__(self, model: LoadedModel, width: int | None = None) -> None:
        """With a `width`, every pass has that many rows, whoever is in the batch, and no drafts are verified."""
        self.rows: list[Row] = []
        self._width = width
        self._graph = model.graph
        self._suppressed = model.processor.suppress_token_ids
        self._rounding = verify.rounding_of(model)
        self._pace = Pace()
        self._states: RowStates | None = None
        self._next: Choice | None = None
        self._alone = False
        """Whether the next pass must be of one token."""
        self._banned: mx.array | None = None

    @property
    def cache_bytes(self) -> int:
        """Bytes held for the rows in the batch."""
        return self._states.nbytes if self._states is not None else 0

    def join(self, rows: Sequence[Row]) -> int:
        """Read the rows' pictures and prompts, those of one shape in one pass, and add them to the batch: how many did."""
        groups = groupby(sorted(rows, key=shape), key=shape)
        return sum(self._join_alike(list(group)) for _, group in groups)

    def step(self) -> int:
        """One more token for every row, or several where drafts are right: how many. Ended rows have left at the end."""
        self._leave([i for i, row in enumerate(self.rows) if row.cancel.is_set()], Finish.CANCELLED)
        rows, before = self.rows, sum(len(row.tokens) for row in self.rows)
        if self._states is not None:
            self._step(self._states)
        return max(sum(len(row.tokens) for row in rows) - before, 0)

    def clear(self, error: OcrMlxError) -> None:
        """End all rows with this error and drop their state."""
        for row in self.rows:
            row.end(Finish.ERROR, error)
        self._keep_live()

    # --- one step ------------------------------------------------------------------------------------------------

    def _step(self, states: RowStates) -> None:
        if self._next is not None:
            now, self._next = self._next, None
            if self._may_go_ahead():
                self._next = self._pass(now.tokens[:, None], states)
            _hand(now, self.rows)
            self._keep_live()
            self._choose_again(states)
        if not self.rows:
            return
        drafts = self._drafts()
        if self._next is not None:
            return
        if any(drafts):
            self._verify(drafts, states)
        else:
            self._alone = False
            self._trim(states)
            self._next = self._pass(self._last_tokens(), states)

    def _may_go_ahead(self) -> bool:
        """Whether the step behind the one that is not read yet can be computed already."""
        if any(row.last_step or row.sampler.needs_history for row in self.rows):
            return False
        return not (self._may_draft() and any(row.awaited for row in self.rows))

    def _choose_again(self, states: RowStates) -> None:
        """Where the batch has gone ahead, rows that were taken back need another next token; the others keep theirs."""
        again = [i for i, row in enumerate(self.rows) if states.held[i] > len(row.tokens)]
        if self._next is None or not again:
            return
        self._trim(states)
        logits = states.decode(self._last_tokens())[:, 0]
        fresh = self._choose(logits[mx.array(again)], [self.rows[i] for i in again])
        self._next = self._next.put(again, fresh)

    # --- drafts --------------------------------------------------------------------------------------------------

    def _may_draft(self) -> bool:
        """A pass over drafts rounds otherwise, which only rows that are greedy are proof against."""
        return self._width is None and all(row.verifiable for row in self.rows)

    def _drafts(self) -> list[list[int]]:
        """What each row's drafter proposes."""
        if self._alone or not self._may_draft() or self._banned is None or self._pace.rests():
            return [[] for _ in self.rows]
        most = min(verify.MOST, *(row.spare for row in self.rows))
        drafts = [row.draft(most, self._banned.size) for row in self.rows]
        width = self._pace.width([len(draft) for draft in drafts])
        for row in self.rows:
            row.awaited &= width > 0
        return [draft[:width] for draft in drafts]

    def _verify(self, drafts: Sequence[Sequence[int]], states: RowStates) -> None:
        self._trim(states)
        width = 1 + max(len(draft) for draft in drafts)
        block = [[row.tokens[-1], *draft] for row, draft in zip(self.rows, drafts, strict=True)]
        tokens = mx.array([line + [line[-1]] * (width - len(line)) for line in block], dtype=mx.int32)
        if self._rounding.must_measure(tokens.size):
            verdicts = self._measured(tokens, drafts, states)
        else:
            verdicts = self._judged(tokens, drafts, states)
        for row, whole, verdict in zip(self.rows, drafts, verdicts, strict=True):
            draft, accepted = whole[: len(verdict) - 1], row.accepted
            try:
                self._alone |= verify.take(row, draft, verdict)
                self._pace.saw(len(draft), row.accepted - accepted)
            except Exception as problem:  # whatever one row's test or text does must not reach its neighbours
                _fail([row], problem)
        self._keep_live()

    def _judged(
        self, tokens: mx.array, drafts: Sequence[Sequence[int]], states: RowStates
    ) -> list[list[verify.Verdict]]:
        logits = states.decode(tokens)
        for row in self.rows:
            row.passes += 1
        return verify.judge(logits, self._mask(logits), verify.bans(self.rows, drafts), self._rounding)

    def _measured(
        self, tokens: mx.array, drafts: Sequence[Sequence[int]], states: RowStates
    ) -> list[list[verify.Verdict]]:
        """The same by passes of one token each, as far as a draft is right, and how the one differs from the others."""
        many = states.decode(tokens)
        bans = verify.bans(self.rows, drafts)
        first = verify.judge(many, self._mask(many), bans, None)
        agreed = max(verify.agreement(row, draft) for row, draft in zip(first, drafts, strict=True))
        width = min(1 + agreed, verify.LOOKS)
        self._trim(states)
        single = mx.concatenate([states.decode(tokens[:, i : i + 1]) for i in range(width)], axis=1)
        for row in self.rows:
            row.passes += 1 + width
        self._rounding.measured(many[:, :width], single, tokens.size)
        return verify.judge(single, self._mask(single), [row[:width] for row in bans], None)

    # --- passes --------------------------------------------------------------------------------------------------

    def _pass(self, tokens: mx.array, states: RowStates) -> Choice:
        """One token for each row behind `tokens` [B, 1], on its way."""
        following = self._choose(states.decode(tokens)[:, 0], self.rows)
        mx.async_eval(following.arrays(), states.arrays())
        return following

    def _trim(self, states: RowStates) -> None:
        """Leave all but the last of each row's tokens in the state."""
        states.trim_to([len(row.tokens) - 1 for row in self.rows])

    def _last_tokens(self) -> mx.array:
        return mx.array([[row.tokens[-1]] for row in self.rows], dtype=mx.int32)

    def _choose(self, logits: mx.array, rows: Sequence[Row]) -> Choice:
        return choose(logits, [row.sampler for row in rows], [row.tokens for row in rows], self._mask(logits))

    def _mask(self, logits: mx.array) -> mx.array:
        if self._banned is None:
            self._banned = mask(self._suppressed, logits.shape[-1])
        return self._banned

    # --- who is in it --------------------------------------------------------------------------------------------

    def _join_alike(self, rows: list[Row]) -> int:
        rows = [row for row in rows if _ready(row)]
        if not rows:
            return 0
        if self._width is not None and len(rows) > 1:
            return sum(self._join_alike([row]) for row in rows)
        try:
            logits, state = self._graph.prefill([row.inputs for row in rows])
            first = self._choose(logits, rows)
            mx.eval(first.arrays(), state.arrays())
        except Exception as problem:  # one picture's trouble must not reach the rows that already run
            if len(rows) > 1:  # nor those that were read with it
                return sum(self._join_alike([row]) for row in rows)
            _fail(rows, problem)
            return 0
        self._append(rows, first, state)
        return len(rows)

    def _append(self, rows: list[Row], first: Choice, state: DecodeState) -> None:
        states = RowStates(self._graph, state, len(rows), self._width)
        if self._states is None:
            self._states, self._next = states, first
        else:
            self._states.merge(states)
            if self._next is not None:
                self._next = concatenate([self._next, first])
            else:  # the others' tokens are with them already
                _hand(first, rows)
        self.rows.extend(rows)
        self._keep_live()

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
            self._states = self._next = None
            return
        if self._states is not None:
            self._states.keep(live)
        if self._next is not None and self._next.tokens.shape[0] != len(live):
            self._next = self._next.take(live)


def shape(row: Row) -> Shape:
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


def _hand(choice: Choice, rows: Sequence[Row]) -> None:
    """Bring one pass's tokens to the host and hand each row its own; a row that raises fails alone."""
    tokens, logprobs, tops = (np.asarray(array).tolist() for array in choice.arrays())
    for row, token, logprob, top in zip(rows, tokens, logprobs, tops, strict=True):
        row.passes += bool(row.tokens)  # the first token comes from the prefill
        try:
            row.accept(token, logprob, top)
        except Exception as problem:  # whatever one row's test or text does must not reach its neighbours
            _fail([row], problem)


def _fail(rows: Sequence[Row], problem: Exception) -> None:
    error = as_error(problem, "decoding a page")
    for row in rows:
        row.end(Finish.ERROR, error)
