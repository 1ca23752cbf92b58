"""Attention over long sequences that never holds all of its scores."""

from __future__ import annotations

from typing import Literal

import mlx.core as mx

from ocr_mlx.model.layers.activations import on_cpu

Mask = mx.array | Literal["causal"] | None
_SCORES = 1 << 26
"""Scores that may be held at once: 256 MB in float32."""


def attend(queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Mask = None) -> mx.array:
    """As `mx.fast.scaled_dot_product_attention` over [rows, heads, length, size].

    A GPU's kernel never lays the scores out. A CPU would, so there blocks of queries take turns; each query sees the same
    keys as ever, and the result is the same. An array `mask` has [..., queries, keys], or one row of keys for all.
    """
    rows, heads, length, _ = queries.shape
    block = max(_SCORES // (rows * heads * keys.shape[2]), 1)
    if length <= block or not on_cpu():
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    parts = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        part = mx.fast.scaled_dot_product_attention(
            queries[:, :, start:stop],
            keys,
            values,
            scale=scale,
            mask=_of_block(mask, start, stop, length, keys.shape[2]),
        )
        mx.eval(part)  # else all blocks' scores would be laid out together
        parts.append(part)
    return mx.concatenate(parts, axis=2)


def _of_block(mask: Mask, start: int, stop: int, length: int, columns: int) -> mx.array | None:
    """The mask's rows for queries start..stop of `length`, of which the last stands at the last key."""
    if mask is None:
        return None
    if isinstance(mask, str):
        places = mx.arange(start, stop) + (columns - length)
        return mx.arange(columns) <= places[:, None]
    return mask if mask.shape[-2] == 1 else mask[..., start:stop, :]
