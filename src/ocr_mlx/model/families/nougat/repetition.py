"""Text that repeats itself at the end of a page, and lists of references that the model invented."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

MISSING = "[MISSING_PAGE_POST]"
_LEAST_REPEAT = 30
_PUNCTUATION = re.compile(r"[.?!\n]")
_NUMBERS = re.compile(r"[\d_]|\*\*")
_LONGEST, _SHORTEST, _LEAST_LINES = 200, 3, 15
_ALIKE = 0.9
_LOOK_AROUND = 5
_GAP = 3


def truncate_repetitions(text: str) -> str:
    """Cut a tail that says the same thing again and again, up to the end of the sentence in which it began."""
    lower = text.lower()
    period = _longest_period(lower)
    if period is None:
        return text
    unit, kept = lower[-period:], lower
    while kept.endswith(unit):
        kept = kept[:-period]
    tail, length = lower[len(kept) :], len(kept)
    backwards = lower[::-1]
    while (end := _punctuation(lower, length)) and (start := _punctuation(backwards, length)):
        length = end + 1
        # `start` counts from the other end of the text, as upstream has it.
        if lower[start:end] in tail:
            break
    return text[:length]


def remove_runaway_references(text: str) -> str:
    """Replace long runs of lines that hardly differ by a marker for missing text."""
    lines = text.split("\n")
    bare = [_without_numbers(line) for line in lines]
    runs = [_run_text(lines, bare[first], first, stop) for first, stop in _alike_runs(bare)]
    for run in reversed(runs):
        if run:
            text = text.replace(run, f"\n\n{MISSING}\n\n")
    return re.sub(r"## References\n+\[MISSING_PAGE_POST(:\d+)?\]", r"\n\n[MISSING_PAGE_POST\1]", text)


def ratio(a: str, b: str) -> float:
    """How alike two strings are, from 0 to 1: one minus their insertions and deletions by their lengths together."""
    total = len(a) + len(b)
    return 1.0 - (total - 2 * _common_subsequence(a, b)) / total if total else 1.0


def _common_subsequence(a: str, b: str) -> int:
    """Length of the longest common subsequence; each bit of `unmatched` is one character of `a`."""
    full = (1 << len(a)) - 1
    places: dict[str, int] = {}
    for index, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << index
    unmatched = full
    for character in b:
        hits = unmatched & places.get(character, 0)
        unmatched = (unmatched + hits | unmatched - hits) & full
    return len(a) - unmatched.bit_count()


def _longest_period(text: str) -> int | None:
    """The longest stretch, of 30 characters or more, that stands twice at the end."""
    length = len(text)
    for period in range(length // 2 - 1, _LEAST_REPEAT - 1, -1):
        if text[length - 1] == text[length - 1 - period] and text[length - period :] == text[-2 * period : -period]:
            return period
    return None


def _punctuation(text: str, start: int) -> int:
    """Index of the next sentence end; 0 where there is none."""
    found = _PUNCTUATION.search(text, start)
    return found.start() if found else 0


def _without_numbers(line: str) -> str:
    return _NUMBERS.sub("", line).strip()


def _alike_runs(bare: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Ranges (first, stop) of more than fifteen lines that resemble their successors, gaps of up to two allowed."""
    marked: set[int] = set()
    nexts = _next_lines(bare)
    for index in range(len(bare) - 1):
        after = nexts[index]
        if _resemble(bare[index], bare[after]):
            marked.update(range(index, after))
    found = sorted(marked)
    breaks = [0, *(i for i in range(1, len(found)) if found[i] - found[i - 1] > _GAP), len(found)]
    for begin, end in pairwise(breaks):
        if found and found[end - 1] + 2 - found[begin] > _LEAST_LINES:
            yield found[begin], found[end - 1] + 2


def _next_lines(bare: Sequence[str]) -> list[int]:
    """For each line the index of the next that is not empty; of the last one, where there is none."""
    nexts, after = [0] * len(bare), len(bare) - 1
    for index in range(len(bare) - 2, -1, -1):
        after = index + 1 if bare[index + 1] else after
        nexts[index] = after
    return nexts


def _resemble(a: str, b: str) -> bool:
    comparable = all(_SHORTEST < len(line) < _LONGEST for line in (a, b)) and not a.startswith("[MISSING_PAGE")
    return comparable and (a == b or ratio(a, b) > _ALIKE)


def _run_text(lines: Sequence[str], base: str, first: int, stop: int) -> str:
    """The text of a run, its ends moved by a few lines to where the likeness really ends."""
    begin, from_reference = _run_begin(lines, base, first)
    end = next((i for i in range(stop, min(len(lines), stop + _LOOK_AROUND)) if _differ(base, lines[i])), stop)
    end = min(end, len(lines) - 1)
    run = "\n".join(lines[begin : end + 1])
    if from_reference and "* [" in run:
        run = "* [" + run.partition("* [")[-1]
    shared = _shared_until(lines[end - 1], lines[end])
    rest = 0 if shared is None else len(lines[end]) - shared - 1
    return (run[:-rest] if rest > 0 else run).strip()


def _run_begin(lines: Sequence[str], base: str, first: int) -> tuple[int, bool]:
    """The line where the run begins, and whether it begins inside a list of references."""
    for index in range(max(0, first - 1), max(0, first - _LOOK_AROUND), -1):
        if not lines[index]:
            continue
        if lines[index] == "## References":
            return index, False
        if _differ(base, lines[index]):
            reference = _without_numbers(lines[max(0, index - 1)].partition("* [")[-1])
            another = len(reference) >= 0.75 * len(base) and ratio(base, reference) < _ALIKE
            return index if another else index + 1, True
    return first, False


def _differ(base: str, line: str) -> bool:
    return ratio(base, _without_numbers(line)) < _ALIKE


def _shared_until(before: str, line: str) -> int | None:
    """Index in `line` of the first character that differs from the line before, digits passed over; None for none."""
    last: int | None = None
    characters = enumerate(line)
    for expected in before:
        if expected.isnumeric():
            continue
        found = ""
        for last, found in characters:  # noqa: B007 - the index is the result
            if not found.isnumeric():
                break
        else:
            return last
        if found != expected:
            return last
    return last
