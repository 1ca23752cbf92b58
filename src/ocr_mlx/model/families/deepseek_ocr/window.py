"""Unlimited-OCR's attention while decoding: the whole prompt, and the last tokens of what has been written.

Source: `UnlimitedOcrDynamicReferenceSlidingWindowLayer` of transformers 5.23 (R-SWA). The cache here keeps all tokens, a
mask hides those that upstream forgets.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ocr_mlx.model.base import DecodeState
from ocr_mlx.model.layers.decoder import DecoderState
from ocr_mlx.model.layers.kv_cache import BatchKVCache
from ocr_mlx.model.layers.reach import Reach


class PromptState(DecoderState):
    """Keys and values of a batch of rows, and how many tokens each row's prompt has."""

    def __init__(self, cache: BatchKVCache, prompts: Sequence[int]) -> None:
        super().__init__(cache)
        self.prompts = list(prompts)

    def merge(self, other: DecodeState) -> None:
        """Append the other state's rows behind this one's. Raises TypeError for another graph's state."""
        if not isinstance(other, PromptState):
            raise TypeError("only states of the same graph can be merged")
        super().merge(other)
        self.prompts += other.prompts

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        super().keep(rows)
        self.prompts = [self.prompts[row] for row in rows]

    def seen(self, count: int, window: int | None) -> Reach | None:
        """What the next `count` tokens may look at; None while that is everything.

        A token sees the prompt and, of what was written, itself and the `window` - 1 tokens before it.
        """
        written = (length + count - prompt for length, prompt in zip(self.cache.lengths, self.prompts, strict=True))
        if window is None or max(written, default=0) <= window:
            return None
        places = mx.arange(max(self.cache.lengths) + count)
        own = self.cache.positions(count)[:, None, :, None]
        prompts = mx.array(self.prompts)[:, None, None, None]
        return self.cache.reach(count, (places <= own) & ((places < prompts) | (places > own - window)))
