"""Whether drafting pays, and how far ahead: counted for a page, and weighed for the rows of one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ALONE: Final = 0.2
TOGETHER: Final = 0.4
_MANY: Final = 64
"""What one more token for every row costs a pass, in passes of one token: for one row, and for `_MANY` rows.

Measured with the built-in model on a CPU: 17 tokens for each row take 4.0 times as long as one for a row alone, and 7.5
times for 64 rows. Large models and GPUs pay less, so this never promises too much.
"""
ASKING_ALONE: Final = 0.03
ASKING_TOGETHER: Final = 0.4
"""What a question costs a row, in its passes of one token: the host looks the place up, and the next pass waits for that
instead of being under way. Measured likewise: about 0.05 ms, where a pass takes 1.9 ms for a row alone, and 7 ms for 64.
"""
_GAIN: Final = 1.15
"""A draft must promise to be this much faster, since the host's own work is not in the sum."""
_NEAR_BEST: Final = 0.97
_MEMORY: Final = 256.0
"""Predictions that are remembered; older ones fade."""
_REST: Final = 4
"""Passes until rows are asked again whose drafts were not worth it."""
_DOUBT: Final = 0.08
"""How much of a bad opinion is given up each time that it keeps a draft from being tried."""
_ENOUGH: Final = 24.0
_HOPELESS: Final = 0.95
"""The share of what would pay that a page must reach, once enough is known of it."""
_LOSS: Final = 6.0
_LOSS_A_ROW: Final = 0.15
"""In passes of one token for one row: more than that, and that for each row, is not lost on one page."""
_RISKED: Final = 48.0
"""Of what earlier drafts of the page have saved, so many passes of one token may be lost again before it is given up."""
_OF_THE_PAGE: Final = 8
"""As much as so many predictions of a row's own, the page's count for the row."""


class _Record:
    """How often single predictions were right. Old ones fade."""

    def __init__(self, right: float, wrong: float) -> None:
        self._start = (right, wrong)
        self.right = right
        self.wrong = wrong

    @property
    def share(self) -> float:
        return self.right / (self.right + self.wrong)

    def add(self, right: int, wrong: int) -> None:
        self.right += right
        self.wrong += wrong
        fade = min(1.0, _MEMORY / (self.right + self.wrong))
        self.right *= fade
        self.wrong *= fade

    def doubt(self) -> None:
        """Move a little towards what was believed at the start."""
        self.right += _DOUBT * (self._start[0] - self.right)
        self.wrong += _DOUBT * (self._start[1] - self.wrong)


class Worth:
    """How often a page's drafts are right.

    Evidence costs nothing: a row knows which token it would have drafted next, whether it was asked or not.
    """

    def __init__(self, rows: int) -> None:
        """`rows` decode together."""
        self._cost = cost(rows)
        self._asking = asking(rows)
        self._loss = _LOSS + _LOSS_A_ROW * rows
        self._record = _Record(2.0, 1.0)
        self._least = _HOPELESS * (_GAIN * (1.0 + self._cost) - 1.0)
        self._balance = 0.0
        self.hopeless = False
        """Whether nothing of this page should be drafted any more."""

    def saw(self, right: int, wrong: int) -> None:
        """Count tokens that were foreseen, and those that came otherwise."""
        self._record.add(right, wrong)
        self.hopeless |= self._record.wrong >= _ENOUGH and self._record.share < self._least

    def paid(self, wider: int, accepted: int, *, asked: bool = True) -> None:
        """Count what a pass brought a row that was `asked` for a draft, or not.

        The pass was so many tokens `wider` than without drafts, the row's own or its neighbours'.
        """
        self._book(accepted - self._cost * wider - self._asking * asked)

    def in_vain(self) -> None:
        """Count a question that no wider pass came of."""
        self._book(-self._asking)

    def _book(self, passes: float) -> None:
        """Enter what was saved, or lost, in passes of one token for one row."""
        self._balance = min(_RISKED, self._balance + passes)
        self.hopeless |= self._balance < -self._loss

    def chance(self, right: int, wrong: int) -> float:
        """How likely the next token is foreseen for a row that so far was `right` and `wrong` so often."""
        return (right + _OF_THE_PAGE * self._record.share) / (right + wrong + _OF_THE_PAGE)

    def width(self, chance: float, most: int) -> int:
        """How many tokens to draft, at most `most`; 0 where it would not pay."""
        expected, chain, gains = 1.0, 1.0, []
        for count in range(1, most + 1):
            chain *= chance
            expected += chain
            gains.append(expected / (1.0 + self._cost * count))
        return _best(gains)


class Pace:
    """How many drafted tokens a pass of many rows should take: all of them pay for the longest draft."""

    def __init__(self) -> None:
        self._record = _Record(19.0, 1.0)
        self._rest = 0

    def rests(self) -> bool:
        """Whether nobody need be asked for a draft in this pass: asking costs a little too."""
        self._rest -= self._rest > 0
        return self._rest > 0

    def saw(self, proposed: int, accepted: int) -> None:
        """Count one row's draft, once it is verified."""
        self._record.add(accepted, int(accepted < proposed))

    def width(self, lengths: Sequence[int]) -> int:
        """At most so many of the tokens that each row proposes (`lengths`, 0 for none); 0 where one each is better."""
        rows, each, chances = len(lengths), cost(len(lengths)), [0.0]
        gains = []
        for count in range(1, max(lengths, default=0) + 1):
            chances.append(chances[-1] + self._record.share**count)
            said = rows + sum(chances[min(count, length)] for length in lengths)
            gains.append(said / rows / (1.0 + each * count))
        best = _best(gains)
        if gains and not best:
            self._record.doubt()  # other rows come, and what is never tried is never learned
            self._rest = _REST
        return best


def cost(rows: int) -> float:
    """What one more token for each of `rows` costs a pass, in passes of one token."""
    return _between(ALONE, TOGETHER, rows)


def asking(rows: int) -> float:
    """What a question costs one of `rows` that decode together, in its passes of one token."""
    return _between(ASKING_ALONE, ASKING_TOGETHER, rows)


def _between(alone: float, together: float, rows: int) -> float:
    return alone + (together - alone) * min(rows, _MANY) / _MANY


def _best(gains: Sequence[float]) -> int:
    """The largest count, from 1 on, that gains about as much as the best; 0 where none gains enough."""
    best = max(gains, default=0.0)
    if best < _GAIN:
        return 0
    return max(count for count, gain in enumerate(gains, 1) if gain >= _NEAR_BEST * best)
