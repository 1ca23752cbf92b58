"""Runaway repetition: found in the tokens themselves or by the family's own test, and retried once under an n-gram guard.

A loop is the same stretch of tokens, over and over, at the end of a long run. Only long runs are looked at, so dot leaders,
table rules and columns of zeros pass: the longest run in the true texts of 370 documents has 90 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ocr_mlx.domain import DecodeParams
from ocr_mlx.model.base import RepetitionTest

MIN_TOKENS = 400
"""A run shorter than this is not called a loop while the row may still go on."""
MIN_REPEATS = 6
MAX_PERIOD = 128
CHECK_EVERY = 16
_FULL_TOKENS, _FULL_REPEATS = 32, 4
"""What is enough where the row ends cut off anyway, or where the family's test says that it loops but not since when."""
GUARD_NGRAM, GUARD_WINDOW = 6, 512
"""The guard of families whose upstream has none. Of 28 loops of the built-in model on bars and dots, six tokens break 21
with 23 tokens of something else, twenty (as upstreams have it) break 14 with 46; three or four break hardly more, but
forbid ordinary phrases. The window holds four rounds of the longest loop: what stands further up may be said again.
"""


def loop_start(tokens: Sequence[int], *, least: int = MIN_TOKENS, repeats: int = MIN_REPEATS) -> int | None:
    """How many tokens to keep when `tokens` end in a loop (the first time round is kept), None when they do not.

    A loop has `least` tokens or more and goes round `repeats` times or more.
    """
    for period in range(1, MAX_PERIOD + 1):
        needed = max(least, period * repeats)
        if len(tokens) < needed:
            return None
        if tokens[-1] != tokens[-1 - period]:
            continue
        run = _run(tokens, period)
        if run >= needed:
            return len(tokens) - run + period
    return None


def guarded(params: DecodeParams, family: DecodeParams) -> DecodeParams | None:
    """The options for a second try: under the family's guard, else a general one; None where that would change nothing.

    A row that decodes under a guard already is tried again with one that looks at the whole text, not at a window of it.
    """
    if params.no_repeat_ngram:
        return replace(params, ngram_window=0) if params.ngram_window else None
    if family.no_repeat_ngram:
        return replace(
            params,
            no_repeat_ngram=family.no_repeat_ngram,
            ngram_window=family.ngram_window,
            ngram_whitelist=family.ngram_whitelist,
        )
    return replace(params, no_repeat_ngram=GUARD_NGRAM, ngram_window=GUARD_WINDOW)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Retry:
    """A loop that was taken back: what was good, and up to which token the guard holds."""

    kept: int
    until: int


class LoopWatch:
    """One row's eye on loops. `limit` is the most tokens the row may have; `new_test` makes the family's own test."""

    def __init__(self, new_test: Callable[[], RepetitionTest | None], limit: int) -> None:
        self._new_test = new_test
        self._limit = limit
        self._test = new_test()
        self._first = 0
        """Tokens before the one that the family's test saw first."""
        self._retry: _Retry | None = None

    @property
    def retried(self) -> bool:
        """Whether a loop has been taken back."""
        return self._retry is not None

    def holds(self, count: int) -> bool:
        """Whether the guard still holds for a row of `count` tokens."""
        return self._retry is not None and count < self._retry.until

    def update(self, tokens: Sequence[int], max_logit: float) -> int | None:
        """Look at the row after its newest token: how many of its tokens are good when it loops, else None."""
        keep = self._test.update(tokens[-1], max_logit) if self._test is not None else None
        if keep is not None:
            return self._since(tokens, keep + self._first)
        if len(tokens) % CHECK_EVERY == 0:
            keep = loop_start(tokens)
        if keep is None and len(tokens) >= self._limit:
            least = min(max(self._limit // 2, _FULL_TOKENS), MIN_TOKENS)
            keep = loop_start(tokens, least=least, repeats=_FULL_REPEATS)
        return keep

    def go_back(self, keep: int, count: int) -> int:
        """Note that a row of `count` tokens is taken back: how many it keeps to be tried again from, at least one."""
        start = max(keep, 1)
        self._retry = _Retry(kept=keep, until=count)
        self._test, self._first = self._new_test(), start
        return start

    def good(self, keep: int) -> int:
        """What is good of a row that loops for good: nothing of a second try that went straight into a loop again."""
        if self._retry is not None and keep <= self._retry.until + MAX_PERIOD:
            return min(self._retry.kept, keep)
        return keep

    @staticmethod
    def _since(tokens: Sequence[int], keep: int) -> int:
        """Where a loop began of which the family's test only says that it is there."""
        if keep < len(tokens):
            return keep
        start = loop_start(tokens, least=_FULL_TOKENS, repeats=_FULL_REPEATS)
        return len(tokens) if start is None else start


def _run(tokens: Sequence[int], period: int) -> int:
    """Length of the longest end of `tokens` that has this period."""
    at = len(tokens) - 1 - period
    while at >= 0 and tokens[at] == tokens[at + period]:
        at -= 1
    return len(tokens) - 1 - at
