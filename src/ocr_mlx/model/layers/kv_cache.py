"""Keys and values of a batch of rows of different lengths, left-aligned: a row's token at position p lies in column p.

    row 0   a b c d . .          length 4
    row 1   a b c d e f          length 6

Buffers are [rows, heads, columns, head size], one pair per layer, grown in steps; a step writes in place. What lies behind
a row's length is zeros or tokens that were trimmed: finite, and never seen. A row's numbers are in the same columns
whatever its neighbours do, and forgetting its last tokens moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import mlx.core as mx
import numpy as np

from ocr_mlx.model.layers.host import Floats
from ocr_mlx.model.layers.reach import Reach

STEP = 256
"""Columns by which a full buffer grows."""
_Buffers = list[mx.array | None]


class BatchKVCache:
    """The self-attention memory of all layers of one decoder.

    `lengths` are the tokens held of each row. With `apart` every row is attended over by itself even where all at once
    would be faster.
    """

    def __init__(self, layers: int, rows: int) -> None:
        self.lengths = [0] * rows
        self.apart = False
        self._keys: _Buffers = [None] * layers
        self._values: _Buffers = [None] * layers
        self._places: mx.array | None = None

    @property
    def rows(self) -> int:
        """How many rows are held."""
        return len(self.lengths)

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

    def mask(self, count: int) -> Reach | Literal["causal"] | None:
        """What the next `count` tokens may look at, as `attend_within` takes it."""
        if self._alike:
            return "causal" if count > 1 else None
        return self.reach(count)

    def reach(self, count: int, seen: mx.array | None = None) -> Reach:
        """The columns of each row once the next `count` tokens are written; `seen` [rows, 1, count, columns] hides some."""
        return Reach([length + count for length in self.lengths], count, seen=seen, apart=self.apart)

    def append(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write the next tokens' keys and values [rows, heads, count, size] of one layer; return all of them so far.

        Those are [rows, heads, columns, size], as many columns as the longest row has. The lengths change only with
        `advance`, once all layers have written.
        """
        return self._write(self._keys, layer, keys), self._write(self._values, layer, values)

    def append_on_host(self, layer: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        """As `append` on a CPU in float32: what is returned are views of the buffers, good until the next change."""
        return self._write_on_host(self._keys, layer, keys), self._write_on_host(self._values, layer, values)

    def advance(self, count: int) -> None:
        """Count the tokens that all layers have appended."""
        self.lengths = [length + count for length in self.lengths]
        self._places = None

    def merge(self, other: BatchKVCache) -> None:
        """Append the other's rows behind this one's; the other is used up. Both must hold the same layers."""
        capacity = _capacity(max(*self.lengths, *other.lengths, 0) + 1)
        for mine, theirs in ((self._keys, other._keys), (self._values, other._values)):
            for layer, (a, b) in enumerate(zip(mine, theirs, strict=True)):
                if a is not None and b is not None:
                    mine[layer] = mx.concatenate([_resized(a, capacity), _resized(b, capacity)])
        self.lengths = self.lengths + other.lengths
        self.apart = self.apart or other.apart
        self._places = None

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; one named twice is there twice, each going its own way from here on."""
        if list(rows) == list(range(self.rows)):
            return
        self.lengths = [self.lengths[row] for row in rows]
        chosen = mx.array(list(rows), dtype=mx.int32)
        capacity = _capacity(max(self.lengths, default=0) + 1)
        for buffers in (self._keys, self._values):
            buffers[:] = [None if b is None else mx.take(b[:, :, :capacity], chosen, axis=0) for b in buffers]
        self._places = None

    def trim(self, counts: Sequence[int]) -> None:
        """Forget the last `counts[i]` tokens of row i; costs nothing. Raises ValueError when a row holds fewer."""
        if len(counts) != self.rows or any(c < 0 or c > held for c, held in zip(counts, self.lengths, strict=True)):
            raise ValueError("trim needs one count per row, none above the row's length")
        self.lengths = [length - count for length, count in zip(self.lengths, counts, strict=True)]
        self._places = None

    @property
    def _alike(self) -> bool:
        return len(set(self.lengths)) <= 1

    def _write(self, buffers: _Buffers, layer: int, fresh: mx.array) -> mx.array:
        longest, count = max(self.lengths, default=0), fresh.shape[2]
        buffer = _grown(buffers[layer], fresh.shape, longest + count, fresh.dtype)
        if self._alike:
            buffer[..., longest : longest + count, :] = fresh
        else:
            places = mx.broadcast_to(self._columns(count), fresh.shape)
            buffer = mx.put_along_axis(buffer, places, fresh, axis=2)
        buffers[layer] = buffer
        return buffer[..., : longest + count, :]

    def _write_on_host(self, buffers: _Buffers, layer: int, fresh: Floats) -> Floats:
        """Write into the buffer's own memory, which nobody else sees.

        On a CPU attention has used up its slices when it returns, and what merges, keeps or grows rows makes new buffers,
        which are computed before numpy gets to see them.
        """
        longest, count = max(self.lengths, default=0), fresh.shape[2]
        buffer = buffers[layer] = _grown(buffers[layer], fresh.shape, longest + count)
        held = np.asarray(buffer)
        if self._alike:
            held[:, :, longest : longest + count] = fresh
        else:
            for row, length in enumerate(self.lengths):
                held[row, :, length : length + count] = fresh[row]
        return held[:, :, : longest + count]

    def _columns(self, count: int) -> mx.array:
        """Where each row's next tokens go, [rows, 1, count, 1]; all layers of a step share them."""
        if self._places is None or self._places.shape[2] != count:
            self._places = self.positions(count)[:, None, :, None]
        return self._places


def _grown(buffer: mx.array | None, shape: Sequence[int], needed: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    """A buffer of `needed` columns at least, for numbers of this shape."""
    if buffer is None:
        rows, heads, _, size = shape
        return mx.zeros((rows, heads, _capacity(needed), size), dtype=dtype)
    return buffer if buffer.shape[2] >= needed else _resized(buffer, _capacity(needed))


def _resized(buffer: mx.array, capacity: int) -> mx.array:
    columns = buffer.shape[2]
    if columns >= capacity:
        return buffer[:, :, :capacity]
    return mx.pad(buffer, [(0, 0), (0, 0), (0, capacity - columns), (0, 0)])


def _capacity(columns: int) -> int:
    return -(-columns // STEP) * STEP
