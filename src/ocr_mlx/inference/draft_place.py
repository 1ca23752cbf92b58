"""Where in a draft a model has got to, by the letters and digits that it said last.

Only letters and digits count, small ones: marks that a model adds, its white space, hyphens at the ends of lines and capitals
do not lead astray.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_LOOK_BACK: Final = 10
"""Letters that are compared."""
_BEFORE: Final = 24
_BEHIND: Final = 40
"""How far from the expected place is searched, in letters, before the exact letters are searched everywhere."""
_HYPHEN: Final = re.compile(r"(?<=[^\W\d_])-\n(?=[^\W\d_A-Z])")


def letters(text: str) -> str:
    """The letters and digits alone, small."""
    return "".join([c.lower()[0] for c in text if c.isalnum()])


@dataclass(frozen=True, slots=True)
class Place:
    """`at` letters of the draft are said; the last ones differ by `errors` from what was said."""

    at: int
    errors: int = 0


@dataclass(slots=True)
class DraftText:
    """A draft that can be searched. `text` is as it is said, with line feeds where the lines of the page end."""

    text: str
    letters: str = field(init=False)
    _where: list[int] = field(init=False)
    """The place in the text of each letter, and the text's end."""

    def __post_init__(self) -> None:
        self._where = [i for i, c in enumerate(self.text) if c.isalnum()]
        self.letters = "".join([self.text[i].lower()[0] for i in self._where])
        self._where.append(len(self.text))

    def find(self, said: str, expected: int) -> Place | None:
        """Where the draft goes on behind `said`, the row's last words, near `expected` letters first; None where it is lost."""
        recent = letters(said)[-_LOOK_BACK:]
        if not recent:
            return Place(min(expected, len(self.letters)))
        return self._near(recent, expected) or self._anywhere(recent, expected) or self._word(said, expected)

    def rest(self, at: int, said: str, length: int) -> str:
        """Up to `length` characters that come behind the first `at` letters, and behind the marks that `said` ends with."""
        begin = self._where[at - 1] + 1 if at else 0
        begin += _skipped(self.text[begin : self._where[at]], _marks_behind(said))
        return self.text[begin : begin + length]

    def breaks_lines(self, at: int, said: str) -> bool | None:
        """Whether `said`, which ends with the first `at` letters, ends lines where the page does; None if it has none."""
        spoken = [i for i, c in enumerate(said) if c.isalnum()]
        begin = at - len(spoken)
        lines = self.text.count("\n", self._where[begin], self._where[at - 1]) if spoken and begin >= 0 else 0
        return 2 * said.count("\n", spoken[0], spoken[-1]) >= lines if lines else None

    def flowing(self) -> DraftText:
        """The same as running text: words put together again, lines joined."""
        return DraftText(_HYPHEN.sub("", self.text).replace("\n", " "))

    def _word(self, said: str, expected: int) -> Place | None:
        """The nearest word that begins with what `said` has begun; one letter will do at the row's own beginning."""
        begun = _word_behind(said)
        if len(begun) < 2 and begun != letters(said):
            return None
        found = None
        at = self.letters.find(begun, max(0, expected - _BEFORE)) if begun else -1
        while 0 <= at <= expected + _BEHIND:
            end = at + len(begun)
            if self._begins_word(at) and (found is None or abs(end - expected) < abs(found - expected)):
                found = end
            at = self.letters.find(begun, at + 1)
        return Place(found, 1) if found is not None else None

    def _anywhere(self, recent: str, expected: int) -> Place | None:
        """The very same letters, from about the expected place on, or else from the beginning."""
        if len(recent) < _LOOK_BACK:
            return None
        at = self.letters.find(recent, max(0, expected - _BEFORE))
        at = at if at >= 0 else self.letters.find(recent)
        return Place(at + len(recent)) if at >= 0 else None

    def _begins_word(self, at: int) -> bool:
        return at == 0 or self._where[at] > self._where[at - 1] + 1

    def _near(self, recent: str, expected: int) -> Place | None:
        """The best fit around the expected place; one that ends with another letter must be good up to there."""
        start = max(0, expected - _BEFORE)
        ends = _distances(recent, self.letters[start : expected + _BEHIND])
        if not ends:
            return None
        last = recent[-1]
        errors, other, _, at = min(
            (distance, self.letters[end - 1] != last, abs(end - expected), end)
            for end, distance in enumerate(ends, start + 1)
        )
        if other and (errors > 1 or self._begins_word(at - 1)):
            return None
        return Place(at, errors) if errors <= len(recent) // 3 else None


def _word_behind(said: str) -> str:
    """The letters of the word that `said` ends in the middle of."""
    begin = len(said)
    while begin and said[begin - 1].isalnum():
        begin -= 1
    return letters(said[begin:])


def _distances(said: str, text: str) -> list[int]:
    """For every end in `text`, the fewest edits between `said` and a part that ends there (Myers' bit vectors)."""
    most = 1 << (len(said) - 1)
    full = 2 * most - 1
    equal: dict[str, int] = {}
    for i, letter in enumerate(said):
        equal[letter] = equal.get(letter, 0) | 1 << i
    more, less, distance = full, 0, len(said)
    found = []
    for letter in text:
        same = equal.get(letter, 0)
        across = (((same & more) + more) ^ more) | same
        down = same | less
        up, fewer = less | ~(across | more) & full, more & across
        distance += bool(up & most) - bool(fewer & most)
        found.append(distance)
        up, fewer = up << 1 & full, fewer << 1 & full
        more, less = fewer | ~(down | up) & full, up & down
    return found


def _marks_behind(said: str) -> str:
    """What `said` ends with that is no letter or digit."""
    for i in range(len(said) - 1, -1, -1):
        if said[i].isalnum():
            return said[i + 1 :]
    return said


def _skipped(gap: str, marks: str) -> int:
    """How much of the draft's `gap` between two words is over once `marks` are said in its place."""
    if re.sub(r"\s", " ", gap).startswith(re.sub(r"\s", " ", marks)):
        return len(marks)
    white = [found.span() for found in re.finditer(r"\s", gap)]
    if not white:
        return len(gap)
    return white[-1][1] if marks[-1].isspace() else white[0][0]
