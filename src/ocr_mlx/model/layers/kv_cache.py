"""Keys and values of a batch of rows of different lengths, right-aligned so that all rows write at one common column.

    row 0   . . a b c d |          `left[0]` = 2 columns of padding
    row 1   a b c d e f |          `left[1]` = 0
                        ^ end

Buffers are [rows, heads, columns, head size], one pair per layer, grown in steps; a step writes in place. Positions are
per row (column minus padding), so a row's numbers do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import mlx.core as mx

STEP = 256
"""Columns by which a full buffer grows."""
_Change = Callable[[mx.array], mx.array]


class BatchKVCache:
    """The self-attention memory of all layers of one decoder."""

    def __init__(self, layers: int, rows: int) -> None:
        self.left = [0] * rows
        self.end = 0
        self._keys: list[mx.array | None] = [None] * layers
        self._values: list[mx.array | None] = [None] * layers

    @property
    def rows(self) -> int:
        """How many rows are held."""
        return len(self.left)

    @property
    def lengths(self) -> list[int]:
        """Tokens held of each row."""
        return [self.end - left for left in self.left]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, spare columns included."""
        return sum(buffer.nbytes for buffer in self.arrays())

    def arrays(self) -> list[mx.array]:
        """All buffers, for evaluation."""
        return [buffer for buffer in (*self._keys, *self._values) if buffer is not None]

    def positions(self, count: int) -> mx.array:
        """Positions of the next `count` tokens of each row, [rows, count]."""
        return mx.array(self.lengths)[:, None] + mx.arange(count)

    def mask(self, count: int) -> mx.array | Literal["causal"] | None:
        """What the next `count` tokens may look at, as `mx.fast.scaled_dot_product_attention` takes it."""
        if not any(self.left):
            return "causal" if count > 1 else None
        columns = mx.arange(self.end + count)
        seen = columns >= mx.array(self.left)[:, None, None, None]
        if count > 1:
            seen = seen & (columns <= mx.arange(self.end, self.end + count)[:, None])
        return seen

    def append(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write the next tokens' keys and values [rows, heads, count, size] of one layer; return all of them so far.

        The common column moves only with `advance`, once all layers have written.
        """
        stop = self.end + keys.shape[2]
        return self._write(self._keys, layer, keys, stop), self._write(self._values, layer, values, stop)

    def advance(self, count: int) -> None:
        """Count the tokens that all layers have appended."""
        self.end += count

    def merge(self, other: BatchKVCache) -> None:
        """Append the other's rows behind this one's. Both must hold the same layers."""
        end = max(self.end, other.end)
        for mine, theirs in ((self._keys, other._keys), (self._values, other._values)):
            for layer, (a, b) in enumerate(zip(mine, theirs, strict=True)):
                if a is not None and b is not None:
                    mine[layer] = mx.concatenate([_aligned(a, self.end, end), _aligned(b, other.end, end)])
        self.left = [left + end - self.end for left in self.left] + [left + end - other.end for left in other.left]
        self.end = end

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, and drop the padding that all of them share."""
        if list(rows) != list(range(self.rows)):
            chosen = mx.array(list(rows), dtype=mx.int32)
            self._change(lambda buffer: mx.take(buffer, chosen, axis=0))
            self.left = [self.left[row] for row in rows]
        self._drop_shared_padding()

    def trim(self, counts: Sequence[int]) -> None:
        """Forget the last `counts[i]` tokens of row i. Raises ValueError when a row holds fewer."""
        if len(counts) != self.rows or any(c < 0 or c > held for c, held in zip(counts, self.lengths, strict=True)):
            raise ValueError("trim needs one count per row, none above the row's length")
        shared = min(counts, default=0)
        self.end -= shared
        shifts = [count - shared for count in counts]
        if any(shifts):
            self._change(lambda buffer: mx.concatenate([_shifted(buffer, row, by) for row, by in enumerate(shifts)]))
            self.left = [left + by for left, by in zip(self.left, shifts, strict=True)]
        self._drop_shared_padding()

    def _drop_shared_padding(self) -> None:
        if shared := min(self.left, default=0):
            self._change(lambda buffer: buffer[:, :, shared:])
            self.left = [left - shared for left in self.left]
            self.end -= shared

    def _change(self, how: _Change) -> None:
        self._keys = [None if buffer is None else how(buffer) for buffer in self._keys]
        self._values = [None if buffer is None else how(buffer) for buffer in self._values]

    def _write(self, buffers: list[mx.array | None], layer: int, fresh: mx.array, stop: int) -> mx.array:
        buffer = _grown(buffers[layer], fresh, self.end, stop)
        buffer[..., self.end : stop, :] = fresh
        buffers[layer] = buffer
        return buffer[..., :stop, :]


def _grown(buffer: mx.array | None, like: mx.array, used: int, needed: int) -> mx.array:
    if buffer is not None and buffer.shape[2] >= needed:
        return buffer
    capacity = _capacity(needed)
    rows, heads, _, size = like.shape
    if buffer is None:
        return mx.zeros((rows, heads, capacity, size), dtype=like.dtype)
    room = mx.zeros((rows, heads, capacity - used, size), dtype=like.dtype)
    return mx.concatenate([buffer[:, :, :used], room], axis=2)


def _aligned(buffer: mx.array, used: int, end: int) -> mx.array:
    return mx.pad(buffer[:, :, :used], [(0, 0), (0, 0), (end - used, _capacity(end + 1) - end), (0, 0)])


def _shifted(buffer: mx.array, row: int, by: int) -> mx.array:
    one = buffer[row : row + 1]
    return mx.pad(one[:, :, : one.shape[2] - by], [(0, 0), (0, 0), (by, 0), (0, 0)]) if by else one


def _capacity(columns: int) -> int:
    return -(-columns // STEP) * STEP
