"""A drafter that follows one row through a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenizers import Tokenizer

from ocr_mlx.inference.draft_place import DraftText, letters
from ocr_mlx.inference.draft_worth import Worth
from ocr_mlx.model.tokenizer import spelled, unbroken

_AHEAD: Final = 200
"""Characters that are turned into tokens at a time."""
_RECENT: Final = 40
"""Tokens that are spelled out to find the place."""
_TAIL: Final = 2
"""Tokens already said that are spelled together with the draft, since words are parted by what stands before them."""
_TRIES: Final = 20
_PATIENT: Final = 3
_LONGEST_WAIT: Final = 64
"""A row that has lost its place tries again with each of the next tokens, then after 2, 4 ... of them: so often in all."""


class TextDrafter:
    """Follows one row through a text that it is likely to say. A `Drafter`.

    While the model says what was foreseen, tokens are only counted off; its words are spelled out where it differs.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        text: DraftText,
        worth: Worth,
        *,
        start: int = 0,
        never: frozenset[int] = frozenset(),
        again: bool = False,
    ) -> None:
        """`start` is about where the row begins, in letters; `never` are tokens that the model never chooses.

        `again` says that the model itself has written the text, its line feeds included.
        """
        self._tokenizer = tokenizer
        self._lines = text
        self._running = text if again or "\n" not in text.text else text.flowing()
        self._text = self._running
        self._worth = worth
        self._never = never
        self._ahead: list[int] = []
        """What is foreseen behind the first `_seen` tokens, to the draft's end if `_ends`."""
        self._seen = -1
        self._ends = False
        self._errors = 0
        self._anchor = (0, start)
        """Tokens said, and letters of the draft, where the place was last found."""
        self._right = self._wrong = 0
        self._tries = self._next_try = 0
        self._open = False
        """Whether something was proposed of which nothing was heard yet."""

    @property
    def silent(self) -> bool:
        """Whether the row or its page has been given up."""
        return self._worth.hopeless or self._tries > _TRIES

    def propose(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """What the text goes on with behind `tokens`, as far as it pays."""
        if self.silent:
            return ()
        if self._seen < 0:
            self._seen = 0
            if not self._anchor[1]:  # a row that begins in the middle of its text is found by its first letter
                self._look_ahead((), "", 0)
        self._follow(tokens, most)
        width = self._width(most) if self._ahead else 0
        if self._open:
            self._worth.in_vain()
        self._open = width > 0
        if not width:
            self._worth.in_vain()
        return self._ahead[:width]

    def verified(self, wider: int, accepted: int) -> None:
        """Count what the last pass brought."""
        self._worth.paid(wider, accepted, asked=self._open)
        self._open = False

    def _width(self, most: int) -> int:
        return self._worth.width(self._worth.chance(self._right, self._wrong), most >> self._errors)

    def _follow(self, tokens: Sequence[int], most: int) -> None:
        if len(tokens) < self._seen:  # some were taken back
            self._ahead, self._seen, self._next_try = [], len(tokens), 0
            self._anchor = min(self._anchor, (len(tokens), self._anchor[1]))
            self._find(tokens)
            return
        new = tokens[self._seen :]
        right = _agreeing(new, self._ahead)
        self._count(right, right < min(len(new), len(self._ahead)))
        self._seen = len(tokens)
        if right < len(new):
            self._ahead = []
            self._find(tokens)
            return
        del self._ahead[:right]
        if right:
            self._errors = 0
        if len(self._ahead) < most and not (self._ends and self._ahead):
            self._find(tokens)
            self._errors = 0

    def _count(self, right: int, wrong: bool) -> None:
        self._right += right
        self._wrong += wrong
        self._worth.saw(right, wrong)

    def _find(self, tokens: Sequence[int]) -> None:
        """Look up where the row is and what comes next; a row that is lost looks less and less often."""
        if self._seen < self._next_try:
            return
        counted, known = self._anchor
        said = self._spell(tokens[-_RECENT:])
        new = said if len(tokens) - counted == _RECENT else self._spell(tokens[counted:])
        place = self._text.find(said, known + len(letters(new)))
        if place is not None:
            self._anchor, self._errors = (len(tokens), place.at), place.errors
            self._learn(said, place.at)
            self._look_ahead(tokens[-_TAIL:], said, place.at)
        if self._ahead:
            self._tries = 0
        else:
            self._next_try = self._seen + max(1, min(1 << self._tries >> _PATIENT, _LONGEST_WAIT))
            self._tries += 1

    def _learn(self, said: str, at: int) -> None:
        """Whether this model ends its lines where the page does."""
        if self._running is not self._lines:
            breaks = self._lines.breaks_lines(at, said)
            if breaks is not None:
                self._text = self._lines if breaks else self._running

    def _look_ahead(self, tail: Sequence[int], said: str, at: int) -> None:
        rest = self._text.rest(at, said, _AHEAD)
        self._ends = len(rest) < _AHEAD
        ahead = self._encode(tail, rest)
        if not self._ends:
            ahead = ahead[:-1]  # it may go on behind the cut
        stop = next((i for i, token in enumerate(ahead) if token in self._never), len(ahead))
        self._ahead = ahead[:stop]

    def _encode(self, tail: Sequence[int], rest: str) -> list[int]:
        """The tokens of `rest` behind the tokens `tail`."""
        if tail:
            both = spelled(self._tokenizer, self._spell(tail) + rest)
            if both[: len(tail)] == list(tail):
                return both[len(tail) :]
        return spelled(self._tokenizer, rest)

    def _spell(self, tokens: Sequence[int]) -> str:
        with unbroken():
            text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text


def _agreeing(one: Sequence[int], other: Sequence[int]) -> int:
    """How many of the first elements are the same."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
