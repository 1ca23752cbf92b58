"""Drafted tokens, verified several in one pass; the row says exactly what it would say token by token.

A pass over many tokens rounds otherwise than a pass over one. So a token is only taken where it leads by more than that
rounding, which is measured on the model itself; where it does not, the position is decoded alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np

from ocr_mlx.inference.stopping import Row
from ocr_mlx.model.base import LoadedModel
from ocr_mlx.model.layers.host import logsumexp

MOST: Final = 15
"""Most tokens drafted at once: with the one before them, sixteen in a pass."""
_KEY: Final = "rounding"
_SAFETY: Final = 8
"""A lead is the difference of two logits that may both be off, and more than was measured."""
_FLOOR: Final = 4
"""Steps of the number format at the leading logit's size below which no lead counts, whatever was measured."""
_LEAST_MEASURED: Final = 2
LOOKS: Final = 4
"""Positions of a pass that are computed a second time, one by one, to measure it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the model says at one position: its token, as in `Choice`, and whether it leads clearly."""

    token: int
    logprob: float
    max_logit: float
    clear: bool


class Rounding:
    """By how much a many-token pass of this model strays from passes of one token. Kept with the model."""

    def __init__(self) -> None:
        self._largest = 0.0
        self._step = 0.0
        self._seen: dict[int, int] = {}

    def must_measure(self, tokens: int) -> bool:
        """Whether a pass of about that many tokens, all rows together, has not been measured enough."""
        return _class_of(tokens) not in self._seen or sum(self._seen.values()) < _LEAST_MEASURED

    def measured(self, many: mx.array, single: mx.array, tokens: int) -> None:
        """Note how two ways to the same logits [B, K, V] differ; `tokens` as in `must_measure`."""
        both = mx.isfinite(many) & mx.isfinite(single)
        strayed = mx.max(mx.abs(mx.where(both, many.astype(mx.float32) - single.astype(mx.float32), 0.0)))
        self._largest = max(self._largest, abs(strayed.item()))
        self._step = max(self._step, abs(mx.finfo(many.dtype).eps))
        size = _class_of(tokens)
        self._seen[size] = self._seen.get(size, 0) + 1

    def lead(self, max_logits: mx.array) -> mx.array:
        """The lead that is needed where the largest logits are these."""
        return mx.maximum(_SAFETY * self._largest, _FLOOR * self._step * mx.abs(max_logits))


def _class_of(tokens: int) -> int:
    """Passes of 5 to 16 tokens, 17 to 64, 65 to 256 ... go through the same kernels, and round alike."""
    return ((tokens - 1).bit_length() + 1) // 2


def rounding_of(model: LoadedModel) -> Rounding:
    """The model's own record, made when first asked for."""
    found: Rounding = model.kept.setdefault(_KEY, Rounding())
    return found


def bans(rows: Sequence[Row], drafts: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """For each row, the tokens that its n-gram guard forbids behind none, one, two ... of its drafted tokens."""
    return [
        [row.sampler.banned([*row.tokens, *draft[:count]]) for count in range(len(draft) + 1)]
        for row, draft in zip(rows, drafts, strict=True)
    ]


def judge(
    logits: mx.array, banned: mx.array, bans: Sequence[Sequence[Sequence[int]]], rounding: Rounding | None
) -> list[list[Verdict]]:
    """The verdicts of each row at each position; without rounding all are clear.

    `logits` [B, K, V]; `banned` bool [V], tokens that are never chosen; `bans[row][position]` those that are not there.
    """
    logits = mx.where(banned, -mx.inf, logits.astype(mx.float32))
    allowed = _without(logits, bans)
    tokens = mx.argmax(allowed, axis=-1)
    picked = mx.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    tops = mx.max(logits, axis=-1)
    logprobs = picked - logsumexp(logits)
    clear = mx.ones(tokens.shape, dtype=mx.bool_)
    if rounding is not None:
        others = mx.where(mx.arange(logits.shape[-1]) == tokens[..., None], -mx.inf, allowed)
        clear = picked - mx.max(others, axis=-1) > rounding.lead(tops)
    columns = [np.asarray(array).tolist() for array in (tokens, logprobs, tops, clear)]
    return [
        [Verdict(token=t, logprob=p, max_logit=m, clear=c) for t, p, m, c in zip(*row, strict=True)]
        for row in zip(*columns, strict=True)
    ]


def _without(logits: mx.array, bans: Sequence[Sequence[Sequence[int]]]) -> mx.array:
    """`logits` [B, K, V] with what is banned at a position at -inf."""
    forbidden = [
        (row, at, token) for row, places in enumerate(bans) for at, some in enumerate(places) for token in some
    ]
    if not forbidden:
        return logits
    hidden = np.zeros(logits.shape, np.bool_)
    hidden[tuple(np.array(forbidden).T)] = True
    return mx.where(mx.array(hidden), -mx.inf, logits)


def agreement(verdicts: Sequence[Verdict], draft: Sequence[int]) -> int:
    """How many drafted tokens, from the first on, are what the model says."""
    return next((i for i, token in enumerate(draft) if verdicts[i].token != token), len(draft))


def take(row: Row, draft: Sequence[int], verdicts: Sequence[Verdict]) -> bool:
    """Hand a row what is clear of its draft and the token behind it; True where a position must be decoded alone."""
    loops, alone, right = row.retried, False, 0
    row.drafted += len(draft)
    for place, verdict in enumerate(verdicts[: len(draft) + 1]):
        if not verdict.clear:
            alone = True
            break
        drafted = place < len(draft) and verdict.token == draft[place]
        right += drafted
        row.accepted += drafted
        row.accept(verdict.token, verdict.logprob, verdict.max_logit)
        if row.done or row.retried != loops or not drafted:
            break
    if len(verdicts) > 1 and row.drafter is not None:
        row.drafter.verified(len(verdicts) - 1, right)
    return alone
