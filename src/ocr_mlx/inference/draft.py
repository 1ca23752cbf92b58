"""Tokens that somebody else proposes, for the model to verify several in one pass.

A PDF page's own words, or what an earlier run of the same page said, draft the next tokens. At the beginning the draft's
beginning is proposed; after that the draft follows what the model really says, and finds its place again where the two
differ. What is proposed never changes what is said, only how fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer

from ocr_mlx.domain import Page
from ocr_mlx.inference.draft_follow import TextDrafter
from ocr_mlx.inference.draft_place import DraftText
from ocr_mlx.inference.draft_words import RowText, from_earlier, from_layer
from ocr_mlx.inference.draft_worth import Worth
from ocr_mlx.model.base import LoadedModel, PreparedPage


class Drafter(Protocol):
    """One row's proposals. Used by the thread that decodes, so it must be quick."""

    @property
    def silent(self) -> bool:
        """Whether it will propose nothing more for this row: nothing needs to wait for it any longer."""
        ...

    def propose(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Up to `most` tokens that may follow the row's `tokens` (all it has said so far); empty where there is no idea."""
        ...

    def verified(self, wider: int, accepted: int) -> None:
        """How the last pass fared: it was so many tokens `wider` than it would have been without any row's draft, and took
        `accepted` of this row's. A drafter whose proposals do not pay falls silent by itself.
        """
        ...


def drafters(
    model: LoadedModel, page: Page, prepared: PreparedPage, earlier: str | None = None
) -> list[Drafter | None]:
    """One drafter for each of the page's rows, None where nothing is known about a row.

    `earlier` is the raw text of an earlier run of the same page, perhaps cut short; it goes before the words of the file.
    """
    layer = page.text_layer or ()
    texts = from_earlier(earlier, prepared, whole=bool(layer)) if earlier else None
    again = texts is not None
    if texts is None and layer:
        texts = from_layer(layer, prepared)
    if texts is None:
        return [None] * len(prepared.rows)
    worth = Worth(min(len(prepared.rows), model.processor.max_rows))
    tokenizer, never = model.processor.tokenizer, frozenset(model.processor.suppress_token_ids)
    return [_follower(tokenizer, never, worth, text, again) for text in texts]


def _follower(
    tokenizer: Tokenizer, never: frozenset[int], worth: Worth, row: RowText, again: bool
) -> TextDrafter | None:
    text = DraftText(row.text)
    start = round(row.start * len(text.letters))
    return TextDrafter(tokenizer, text, worth, start=start, never=never, again=again) if text.letters else None
