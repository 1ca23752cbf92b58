"""Character error rates."""

from collections.abc import Sequence


def distance(one: str, two: str) -> int:
    """Insertions, deletions and replacements that make one text of the other."""
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        corner, row[0] = row[0], i
        for j, b in enumerate(two, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
    return row[-1]


def error_rate(truths: Sequence[str], read: Sequence[str]) -> float:
    """All errors over all characters."""
    errors = sum(distance(truth, text) for truth, text in zip(truths, read, strict=True))
    return errors / max(1, sum(map(len, truths)))
