"""The geometry of Swin's windows: which cells share a window, and which pairs in it may not see each other.

All of it follows from the grid's size alone, so it is made once per size and kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

BLOCKED = -100.0
"""Added (not minus infinity) between cells that only the cyclic shift brought together, as upstream does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """One grid cut into windows of `window` x `window` cells after a cyclic shift.

    `order` [windows * cells] holds the flat index of each window's cells, row by row, where the index one past the last
    cell stands for padding; `back` [grid cells] is its inverse; both are None where a reshape does the same. `mask`
    [windows, 1, cells, cells] is None without a shift.
    """

    rows: int
    columns: int
    window: int
    padded: bool
    order: mx.array | None
    back: mx.array | None
    mask: mx.array | None

    def split(self, x: mx.array) -> mx.array:
        """[batch, rows * columns, width] -> [batch * windows, cells, width], zeros where the grid was padded."""
        batch, _, width = x.shape
        side = self.window
        if self.order is None:
            x = x.reshape(batch, self.rows // side, side, self.columns // side, side, width)
            return x.swapaxes(2, 3).reshape(-1, side * side, width)
        if self.padded:
            x = mx.pad(x, [(0, 0), (0, 1), (0, 0)])
        return mx.take(x, self.order, axis=1).reshape(-1, side * side, width)

    def join(self, x: mx.array) -> mx.array:
        """The inverse of `split`, padding dropped."""
        width, side = x.shape[-1], self.window
        if self.back is None:
            x = x.reshape(-1, self.rows // side, self.columns // side, side, side, width)
            return x.swapaxes(2, 3).reshape(-1, self.rows * self.columns, width)
        per_picture = -(-self.rows // side) * -(-self.columns // side) * side * side
        return mx.take(x.reshape(-1, per_picture, width), self.back, axis=1)


class Geometries:
    """Geometries by grid, window and shift, each made when first asked for."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int, int, int], Geometry] = {}

    def get(self, rows: int, columns: int, window: int, shift: int) -> Geometry:
        """The geometry of a grid; a grid no larger than the window on one side is never shifted."""
        shift = 0 if min(rows, columns) <= window else shift
        key = (rows, columns, window, shift)
        if key not in self._made:
            self._made[key] = _geometry(*key)
        return self._made[key]


def relative_index(window: int) -> NDArray[np.int32]:
    """Row of the bias table for each (query, key) pair of a window's cells, [cells, cells]."""
    row, column = np.divmod(np.arange(window * window, dtype=np.int32), window)
    down = row[:, None] - row[None, :] + window - 1
    right = column[:, None] - column[None, :] + window - 1
    index: NDArray[np.int32] = (down * (2 * window - 1) + right).astype(np.int32)
    return index


def _geometry(rows: int, columns: int, window: int, shift: int) -> Geometry:
    full = -(-rows // window) * window, -(-columns // window) * window
    padded = full != (rows, columns)
    if not padded and not shift:
        return Geometry(rows=rows, columns=columns, window=window, padded=False, order=None, back=None, mask=None)
    cells = np.full(full, rows * columns, dtype=np.int32)
    cells[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    order = _by_window(np.roll(cells, (-shift, -shift), (0, 1)), window).reshape(-1)
    back = np.empty(rows * columns + 1, dtype=np.int32)
    back[order] = np.arange(order.size)
    return Geometry(
        rows=rows,
        columns=columns,
        window=window,
        padded=padded,
        order=mx.array(order),
        back=mx.array(back[:-1]),
        mask=mx.array(_shift_mask(full, window, shift)) if shift else None,
    )


def _by_window(cells: NDArray[np.int32], window: int) -> NDArray[np.int32]:
    rows, columns = cells.shape
    parted = cells.reshape(rows // window, window, columns // window, window).swapaxes(1, 2)
    windows: NDArray[np.int32] = parted.reshape(-1, window * window)
    return windows


def _shift_mask(full: tuple[int, int], window: int, shift: int) -> NDArray[np.float32]:
    down, right = (_regions(length, window, shift) for length in full)
    region = _by_window(down[:, None] * 3 + right[None, :], window)
    apart = region[:, :, None] != region[:, None, :]
    return np.where(apart, np.float32(BLOCKED), np.float32(0.0))[:, None]


def _regions(length: int, window: int, shift: int) -> NDArray[np.int32]:
    at = np.arange(length)
    return ((at >= length - window).astype(np.int32) + (at >= length - shift)).astype(np.int32)
