"""Positions in three dimensions (M-RoPE), as numpy: text counts on in all three, a picture's tokens by row and column.

Source: transformers 5.23, `Qwen2VLModel.get_rope_index`, `Qwen2VLRotaryEmbedding`, `Qwen2VLVisionRotaryEmbedding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

Grid = tuple[int, int]
"""Rows and columns of a picture's tokens."""
Table = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Cosines and sines."""


def text_positions(token_ids: Sequence[int], picture: int, grids: Sequence[Grid]) -> tuple[NDArray[np.int64], int]:
    """Positions [3, tokens] by time, row and column, and by how much the next token's is ahead of the tokens so far.

    Each run of `picture` tokens is one picture, in the order of `grids`. Raises ValueError where those do not match.
    """
    parts: list[NDArray[np.int64]] = []
    start, waiting = 0, list(grids)
    for is_picture, run in groupby(token == picture for token in token_ids):
        count = len(list(run))
        if not is_picture:
            parts.append(np.broadcast_to(start + np.arange(count), (3, count)))
            start += count
            continue
        if not waiting or count != waiting[0][0] * waiting[0][1]:
            raise ValueError(f"the prompt has {count} tokens for a picture, the pictures are {list(grids)}")
        rows, columns = waiting.pop(0)
        places = np.indices((rows, columns)).reshape(2, -1)
        parts.append(start + np.stack([np.zeros(count, dtype=np.int64), *places]))
        start += max(rows, columns)
    if waiting:
        raise ValueError(f"{len(waiting)} of the pictures have no place in the prompt")
    return np.concatenate(parts, axis=1), start - len(token_ids)


def text_table(positions: NDArray[np.int64], size: int, theta: float, sections: Sequence[int]) -> Table:
    """Cosines and sines [..., tokens, size] for positions [..., 3, tokens]: pairs turn by time, row or column in turn."""
    angles = _angles(positions, size, theta)
    ends = np.cumsum(sections)
    parts = [
        angles[..., axis % 3, :, end - length : end]
        for axis, (end, length) in enumerate(zip(ends, sections, strict=True))
    ]
    return _table(np.concatenate(parts, axis=-1))


def vision_table(rows: int, columns: int, merge: int, size: int, theta: float) -> Table:
    """Cosines and sines [patches, size] of a grid of patches in the order of `merge_order`."""
    places = np.indices((rows, columns)).reshape(2, rows // merge, merge, columns // merge, merge)
    angles = _angles(places.transpose(0, 1, 3, 2, 4).reshape(2, -1), size // 2, theta)
    return _table(np.concatenate([angles[0], angles[1]], axis=-1))


def _angles(positions: NDArray[np.int64], size: int, theta: float) -> NDArray[np.float32]:
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = np.float32(1.0) / np.float32(theta) ** exponents
    return positions[..., None].astype(np.float32) * frequencies


def _table(half: NDArray[np.float32]) -> Table:
    angles = np.concatenate([half, half], axis=-1)
    return np.cos(angles), np.sin(angles)
