"""How far a text is from the truth."""

from __future__ import annotations


def edit_distance(one: str, other: str) -> int:
    """Least number of inserted, deleted and replaced characters."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        corner, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
    return row[-1]


def character_error_rate(text: str, truth: str) -> float:
    """Edits for each character of the truth."""
    return edit_distance(text, truth) / max(1, len(truth))
