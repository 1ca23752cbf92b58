"""Attention of rows of different lengths: each sees its own columns, and nothing of it depends on its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ocr_mlx.model.layers.attention import Mask, attend, attend_on_host, attend_rows
from ocr_mlx.model.layers.host import Floats, on_cpu


class Reach:
    """How far the last `count` tokens of each row see: `stops[i]` columns, of which the tokens are the last.

    A token sees what is before it and itself; a bool `seen` [rows, 1, count, columns], where given, says so instead.
    With `apart` rows are attended over one by one wherever they are computed, otherwise only where that is no slower.
    """

    def __init__(self, stops: Sequence[int], count: int, *, seen: mx.array | None = None, apart: bool = False) -> None:
        self.stops = list(stops)
        self.count = count
        self._seen = seen
        self._apart = apart

    @property
    def one_by_one(self) -> bool:
        """A CPU's matrix products go row by row anyway; a GPU works on all rows at once."""
        return self._apart or on_cpu()

    def array(self) -> mx.array:
        """What each token sees, bool [rows, 1, count, columns]."""
        if self._seen is None:
            own = mx.array(self.stops)[:, None] + mx.arange(-self.count, 0)
            self._seen = mx.arange(max(self.stops)) <= own[:, None, :, None]
        return self._seen

    def within(self) -> Mask:
        """What each token sees of its row's own columns."""
        if self._seen is not None:
            return self._seen
        return "causal" if self.count > 1 else None


def attend_within(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Mask | Reach = None
) -> mx.array:
    """As `attend` over [rows, heads, length, size]; with a `Reach` each row sees its own columns."""
    if not isinstance(mask, Reach):
        return attend(queries, keys, values, scale=scale, mask=mask)
    if mask.one_by_one:
        return attend_rows(queries, keys, values, mask.stops, scale=scale, mask=mask.within())
    return attend(queries, keys, values, scale=scale, mask=mask.array())


def attend_within_on_host(queries: Floats, keys: Floats, values: Floats, mask: Mask | Reach = None) -> Floats:
    """As `attend_within` of queries that are scaled already, for a decode step on a CPU."""
    stops = mask.stops if isinstance(mask, Reach) else None
    seen = mask.within() if isinstance(mask, Reach) else mask
    return attend_on_host(queries, keys, values, np.asarray(seen) if isinstance(seen, mx.array) else seen, stops)
