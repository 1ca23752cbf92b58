"""Runaway repetition, found in the tokens themselves.

A family may bring its own test (`Processor.repetition_test`); this one holds for all: the same stretch of tokens, over and
over, at the end of a long run. It only ever looks at long runs, so dot leaders and table rules pass.
"""

from __future__ import annotations

from collections.abc import Sequence

MIN_TOKENS = 240
"""A run shorter than this is not called a loop."""
MIN_REPEATS = 6
MAX_PERIOD = 128
CHECK_EVERY = 16


def loop_start(tokens: Sequence[int]) -> int | None:
    """How many tokens to keep when `tokens` end in a loop (the first time round is kept), None when they do not."""
    for period in range(1, MAX_PERIOD + 1):
        needed = max(MIN_TOKENS, period * MIN_REPEATS)
        if len(tokens) < needed:
            return None
        if tokens[-1] != tokens[-1 - period]:
            continue
        run = _run(tokens, period)
        if run >= needed:
            return len(tokens) - run + period
    return None


def _run(tokens: Sequence[int], period: int) -> int:
    """Length of the longest end of `tokens` that has this period."""
    at = len(tokens) - 1 - period
    while at >= 0 and tokens[at] == tokens[at + period]:
        at -= 1
    return len(tokens) - 1 - at
