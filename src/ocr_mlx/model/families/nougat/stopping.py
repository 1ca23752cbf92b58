"""Nougat's own test for runaway output: a model that has lost the page repeats itself, and its certainty stops varying.

Two halves, with upstream's constants. While decoding, the variance of the step's largest logit over 15 steps is
followed; when that variance has itself hardly varied for 200 steps, decoding stops. Then the whole curve is looked at
again to find where the repetition began, and the text is cut there.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

SHORT, LONG = 15, 200
"""Steps over which the logits' variance, and that variance's own variance, are taken while decoding."""
STOP_BELOW = 0.015
REPEAT_BELOW = 0.045
LEAST_VARIANCES = 10
LAST_INDEX = 4095


class ScoreVarianceTest:
    """The test of one row. `limit` is the number of tokens at which decoding ends anyway, `eos` the ids that end it.

    Upstream looks at a row that ended by itself once more when it decoded alone, and not when it had company; here a
    row that ends by itself is never cut, so that a page reads the same in any batch.
    """

    def __init__(self, eos: frozenset[int], limit: int) -> None:
        self._eos = eos
        self._limit = limit
        self._logits: list[float] = []
        self._recent: deque[float] = deque(maxlen=SHORT)
        self._variances: deque[float] = deque(maxlen=LONG)
        self._armed = False

    def update(self, token: int, max_logit: float) -> int | None:
        """Take the next token and its step's largest logit; return how many tokens to keep once it loops, or None."""
        if token in self._eos:
            return None
        self._logits.append(max_logit)
        if self._stops(max_logit):
            repeats = repetition_start(np.array(self._logits))
            return len(self._logits) if repeats is None else kept_tokens(repeats)
        if len(self._logits) >= self._limit:
            repeats = repetition_start(np.array(self._logits))
            return None if repeats is None else kept_tokens(repeats)
        return None

    def _stops(self, max_logit: float) -> bool:
        self._recent.append(max_logit)
        self._variances.append(_unbiased(self._recent) / len(self._recent))
        if len(self._logits) < LONG:
            return False
        calm = _unbiased(self._variances) < STOP_BELOW
        # Upstream sets a stopping index ahead and compares it the wrong way round: the second calm step in a row stops.
        stops = calm and self._armed
        self._armed = calm
        return stops


def repetition_start(logits: NDArray[np.float64]) -> int | None:
    """Where a finished row begins to repeat itself, as a position behind the start token, or None where it does not.

    `logits` are the largest logits of all its steps.
    """
    count = len(logits)
    if count - SHORT < LEAST_VARIANCES:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(logits, SHORT)[: count - SHORT]
    small = np.flatnonzero(_suffix_variances(windows.var(axis=1) / SHORT) < REPEAT_BELOW)
    if len(small) < 2 or np.any(np.diff(small) >= 2):
        return None
    start = int(min(max(int(small[0]), 1) * 1.08 + 120, LAST_INDEX))
    if start / count > 0.9:
        return None
    return 0 if small[0] < 30 else start


def kept_tokens(position: int) -> int:
    """Generated tokens in front of a position of the whole sequence, whose first is the start token."""
    return max(position - 1, 0)


def _suffix_variances(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entry k is the variance of everything behind entry k, as long as that is at least ten values."""
    behind = values[:0:-1]
    counts = np.arange(1, len(behind) + 1)
    means = np.cumsum(behind) / counts
    variances = np.cumsum(behind * behind) / counts - means * means
    return np.maximum(variances, 0.0)[LEAST_VARIANCES - 1 :][::-1]


def _unbiased(values: deque[float]) -> float:
    return float(np.var(np.array(values), ddof=1)) if len(values) > 1 else float("nan")
