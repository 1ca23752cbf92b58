"""Tokens that somebody else proposes, for the model to verify several in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Drafter(Protocol):
    """One row's proposals. Used by the thread that decodes, so it must be quick."""

    def propose(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Up to `most` tokens that may follow the row's `tokens` (all it has said so far); empty where there is no idea."""
        ...

    def verified(self, proposed: int, accepted: int) -> None:
        """How the last proposal fared; a drafter whose proposals do not pay falls silent by itself."""
        ...
