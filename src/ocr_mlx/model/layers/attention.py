"""Attention over long sequences that never holds all of its scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Final, Literal

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ocr_mlx.model.layers.host import Floats, hands, on_cpu, share

Mask = mx.array | Literal["causal"] | None
HostMask = NDArray[Any] | Literal["causal"] | None
_FEW: Final = 1 << 18
"""With no more scores in a row than this, all of its heads go at once. Neighbours must not change a row's way."""
_STEP: Final = 16
"""Queries of a decode step, or of a draft that is verified."""
_WORTH_THREADS: Final = 1 << 19
"""Numbers of keys from which on handing a row to another core takes less time than it saves."""
_WORTH_PARTS: Final = 1 << 21
"""The same for a single row's heads: the BLAS has just multiplied by weights, and its threads still hold the cores."""
_PIECE: Final = 64
"""Columns that some queries are multiplied by in one call of the BLAS: its kernel for small products copies nothing."""
_BLOCK: Final = 1 << 20
"""Scores of one head that are worked on together, 4 MB: what a core's cache holds."""


def attend(queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Mask = None) -> mx.array:
    """As `mx.fast.scaled_dot_product_attention` over [rows, heads, length, size].

    A GPU's kernel never lays the scores out. On a CPU mlx would, and its exponential takes ten times as long as numpy's, so
    there float32 goes through numpy, one head and some queries at a time. An array `mask` is [..., queries, keys], or has one
    row of keys for all.
    """
    if queries.dtype != mx.float32 or not on_cpu():
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    if queries.shape[2] <= _STEP or queries.shape[1] * queries.shape[2] * keys.shape[2] <= _FEW:
        return _by_rows(queries * scale, keys, values, mask)
    seen = None if mask is None or isinstance(mask, str) else _spread(mask, queries, keys)
    parts = np.asarray(queries * scale), np.asarray(keys), np.asarray(values)
    return mx.array(_in_blocks(*parts, seen, causal=isinstance(mask, str)))


def attend_rows(
    queries: mx.array, keys: mx.array, values: mx.array, stops: Sequence[int], *, scale: float, mask: Mask = None
) -> mx.array:
    """As `attend` for every row by itself over its first `stops[row]` columns: to the bit what it is alone.

    An array `mask` is [rows, 1, queries, columns]. On a CPU it is no slower than all rows at once.
    """
    if queries.dtype == mx.float32 and queries.shape[2] <= _STEP and on_cpu():
        return _by_rows(queries * scale, keys, values, mask, stops)
    parts = []
    for row, stop in enumerate(stops):
        own = mask[row : row + 1, :, :, :stop] if isinstance(mask, mx.array) else mask
        key, value = (part[row : row + 1, :, :stop] for part in (keys, values))
        parts.append(attend(queries[row : row + 1], key, value, scale=scale, mask=own))
    return mx.concatenate(parts)


def _by_rows(
    queries: mx.array, keys: mx.array, values: mx.array, mask: Mask, stops: Sequence[int] | None = None
) -> mx.array:
    hide = mask if mask is None or isinstance(mask, str) else np.asarray(mask)
    return mx.array(attend_on_host(np.asarray(queries), np.asarray(keys), np.asarray(values), hide, stops))


def attend_on_host(
    queries: Floats, keys: Floats, values: Floats, mask: HostMask = None, stops: Sequence[int] | None = None
) -> Floats:
    """As `attend_rows`, or without `stops` as `attend`, of queries [rows, heads, length, size] that are scaled already.

    All heads of some rows at once, of one row where each has its own number of columns. Queries of heads that share keys
    lie together, so that those are read once.
    """
    rows, heads, length, size = queries.shape
    groups, columns = keys.shape[1], keys.shape[2]
    q = queries.reshape(rows, groups, heads // groups * length, size)
    out = np.empty((*q.shape[:3], values.shape[-1]), np.float32)
    at_once = 1 if stops is not None else max(_FEW // (heads * length * columns), 1)
    seen = None if isinstance(mask, str) and stops is not None else _seen(mask, length, columns)
    parts = _parts(-(-rows // at_once), groups, columns * size)
    per = groups // parts

    def work(index: int) -> None:
        chunk, part = divmod(index, parts)
        some, own = slice(chunk * at_once, (chunk + 1) * at_once), slice(part * per, (part + 1) * per)
        upto = stops[chunk] if stops is not None else columns
        scores = _times_keys(q[some, own], keys[some, own, :upto])
        hide = _seen(mask, length, upto) if isinstance(mask, str) and stops is not None else seen
        if hide is not None:
            _hide(scores.reshape(-1, heads // parts, length, upto), _own(hide, some, own, heads // groups)[..., :upto])
        out[some, own] = _softmax_over(scores, values[some, own, :upto])

    _each(work, -(-rows // at_once) * parts, rows * max(groups * size, heads * length) * columns)
    return out.reshape(rows, heads, length, -1)


def _times_keys(queries: Floats, keys: Floats) -> Floats:
    """Scores [..., queries, columns] of queries [..., queries, size] and keys [..., columns, size]."""
    count, columns = queries.shape[-2], keys.shape[-2]
    whole = _whole(count, columns)
    out = np.empty((*queries.shape[:-1], columns), np.float32)
    if whole:
        pieces = _pieces(keys, whole).swapaxes(-1, -2)
        np.matmul(queries[..., None, :, :], pieces, out=_pieces(out.swapaxes(-1, -2), whole).swapaxes(-1, -2))
    np.matmul(queries, keys[..., whole:, :].swapaxes(-1, -2), out=out[..., whole:])
    return out


def _times_values(weights: Floats, values: Floats) -> Floats:
    """Sums [..., queries, size] of values [..., columns, size] by weights [..., queries, columns]."""
    whole = _whole(*weights.shape[-2:])
    out: Floats = weights[..., whole:] @ values[..., whole:, :]
    if whole:
        pieces = _pieces(weights.swapaxes(-1, -2), whole).swapaxes(-1, -2)
        out += (pieces @ _pieces(values, whole)).sum(axis=-3)
    return out


def _whole(queries: int, columns: int) -> int:
    """The first columns that are multiplied piece by piece: for a single query the BLAS copies nothing anyway."""
    return columns // _PIECE * _PIECE if 1 < queries <= _STEP else 0


def _pieces(x: Floats, columns: int) -> Floats:
    """The first columns of x [..., columns, numbers] as [..., pieces, columns of a piece, numbers], nothing copied."""
    return x[..., :columns, :].reshape(*x.shape[:-2], -1, _PIECE, x.shape[-1])


def _parts(chunks: int, groups: int, numbers: int) -> int:
    """Into how many parts a single row's heads go, so that all cores have work; a head's result is the same in any."""
    enough = chunks < hands() and groups % hands() == 0 and groups * numbers > _WORTH_PARTS
    return hands() if enough else 1


def _own(mask: NDArray[Any], rows: slice, groups: slice, shared: int) -> NDArray[Any]:
    """The part of the mask [rows or 1, heads or 1, ...] for these rows, and these groups of `shared` heads."""
    mine = mask if mask.shape[0] == 1 else mask[rows]
    return mine if mine.shape[1] == 1 else mine[:, groups.start * shared : groups.stop * shared]


def _each(work: Callable[[int], None], count: int, numbers: int) -> None:
    """All parts of the work: on one core where there is too little of it to share."""
    if numbers > _WORTH_THREADS:
        share(work, count)
        return
    for index in range(count):
        work(index)


def _seen(mask: HostMask, length: int, columns: int) -> NDArray[Any] | None:
    """The mask as [rows or 1, heads or 1, length or 1, columns]."""
    if mask is None:
        return None
    seen = _causal(slice(0, length), length, columns) if isinstance(mask, str) else mask
    return seen.reshape((1,) * (4 - seen.ndim) + seen.shape)


def _hide(scores: Floats, mask: NDArray[Any]) -> None:
    if mask.dtype == np.bool_:
        np.copyto(scores, np.float32(-np.inf), where=~mask)
    else:
        scores += mask


def _spread(mask: mx.array, queries: mx.array, keys: mx.array) -> NDArray[Any]:
    """The mask as if there were one for every row and head."""
    shape = (*queries.shape[:2], mask.shape[-2], keys.shape[2])
    return np.broadcast_to(np.asarray(mask), shape)


def _in_blocks(queries: Floats, keys: Floats, values: Floats, mask: NDArray[Any] | None, *, causal: bool) -> Floats:
    rows, heads, length, _ = queries.shape
    columns, shared = keys.shape[2], heads // keys.shape[1]
    out = np.empty((rows, heads, length, values.shape[-1]), np.float32)
    block = max(_BLOCK // columns, 1)
    places = list(product(range(rows), range(heads), range(0, length, block)))

    def work(index: int) -> None:
        row, head, start = places[index]
        some = slice(start, min(start + block, length))
        # Of `length` queries the last stands at the last key.
        stop = columns - length + some.stop if causal else columns
        seen = _causal(some, length, columns) if causal else _rows_of(mask, row, head, some)
        key, value = (part[row, head // shared, :stop] for part in (keys, values))
        out[row, head, some] = _mixed(queries[row, head, some], key, value, seen)

    share(work, len(places))
    return out


def _rows_of(mask: NDArray[Any] | None, row: int, head: int, some: slice) -> NDArray[Any] | None:
    if mask is None:
        return None
    return mask[row, head] if mask.shape[2] == 1 else mask[row, head, some]


def _causal(some: slice, length: int, columns: int) -> NDArray[np.bool_]:
    places = np.arange(some.start, some.stop) + columns - length
    return np.arange(places[-1] + 1) <= places[:, None]


def _mixed(queries: Floats, keys: Floats, values: Floats, mask: NDArray[Any] | None) -> Floats:
    """Some queries [some, size] of one head over [columns, size]."""
    scores: Floats = queries @ keys.T
    if mask is not None:
        _hide(scores, mask)
    return _softmax_over(scores, values)


def _softmax_over(scores: Floats, values: Floats) -> Floats:
    """The values' mean, weighted by the softmax of the scores, which are used up."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    mixed = _times_values(scores, values)
    mixed /= scores.sum(axis=-1, keepdims=True)
    return mixed
