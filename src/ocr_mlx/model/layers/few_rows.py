"""Matrix products of a few rows on a CPU, through numpy.

Decoding multiplies one row, or a handful, by every weight of the model, so its speed is the speed at which the weights are
read. The BLAS below mlx copies the whole matrix into its own order first, which takes two thirds of that speed. numpy's
reads one row's matrix as it lies; for some more rows its kernel for small products does, when it is given pieces that are
small enough. On a GPU, and for other types than float32, nothing here is used.
"""

from __future__ import annotations

from typing import Any, Final, cast

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_map

from ocr_mlx.model.layers.host import Floats, hands, on_cpu, share

MOST_ROWS: Final = 16
"""From more rows on, copying the matrix pays."""
_SMALL: Final = 1_000_000
"""Multiplications up to which OpenBLAS takes its kernel for small products, which copies nothing and uses one thread."""
_LANES: Final = 16
"""Outputs that a vector register holds: pieces are whole multiples where they can be."""


def product(x: Floats, weight: Floats) -> Floats:
    """`x` [rows, inputs] times `weight` [outputs, inputs] turned over: [rows, outputs].

    One call of numpy per core multiplies all pieces of its share: with a call per piece, threads would wait for the
    interpreter most of the time.
    """
    rows, inputs = x.shape
    outputs = weight.shape[0]
    if rows == 1:
        return cast(Floats, (weight @ x[0])[None])
    out = np.empty((outputs, rows), np.float32)
    step = max(_SMALL // (rows * inputs), 1)
    step = min(step // _LANES * _LANES or step, outputs)
    part = -(-outputs // (step * hands())) * step

    def some(index: int) -> None:
        start, stop = index * part, min((index + 1) * part, outputs)
        whole = start + (stop - start) // step * step
        pieces = weight[start:whole].reshape(-1, step, inputs)
        np.matmul(pieces, x.T, out=out[start:whole].reshape(-1, step, rows))
        np.matmul(weight[whole:stop], x.T, out=out[whole:stop])

    share(some, -(-outputs // part))
    return out.T


class FewRowsLinear(nn.Linear):
    """A linear layer that takes the way through numpy where it is the faster one."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.weight = linear.weight
        if "bias" in linear:
            self.bias = linear.bias

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., inputs]."""
        if not is_few(x, self.weight):
            out: mx.array = super().__call__(x)
            return out
        return times(x, self.weight, self.get("bias"))


class FewRowsEmbedding(nn.Embedding):
    """An embedding that may be the head too."""

    def __init__(self, embedding: nn.Embedding) -> None:
        nn.Module.__init__(self)
        self.weight = embedding.weight

    def as_linear(self, x: mx.array) -> mx.array:
        """Map x [..., width] to [..., vocabulary]."""
        return times(x, self.weight) if is_few(x, self.weight) else x @ self.weight.T


def is_few(x: mx.array, weight: mx.array) -> bool:
    """Whether x [..., inputs] has so few rows that the way through numpy is the faster one."""
    floats = x.dtype == mx.float32 and weight.dtype == mx.float32
    return floats and 0 < x.size <= MOST_ROWS * x.shape[-1] and on_cpu()


def times(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """`x` [..., inputs] times `weight` [outputs, inputs] turned over, and `bias` [outputs] added. Evaluates x."""
    out = product(np.asarray(x).reshape(-1, x.shape[-1]), np.asarray(weight))
    if bias is not None:
        out += np.asarray(bias)
    return mx.array(out).reshape(*x.shape[:-1], -1)


def each_by_its_own(x: mx.array, weights: mx.array, ids: mx.array) -> mx.array:
    """Each x [rows, inputs] times the matrix of its id in `weights` [matrices, outputs, inputs]. Evaluates x and ids."""
    given, matrices = np.asarray(x), np.asarray(weights)
    out = np.empty((len(given), matrices.shape[1]), np.float32)
    for row, matrix in enumerate(np.asarray(ids).tolist()):
        np.matmul(matrices[matrix], given[row], out=out[row])
    return mx.array(out)


def prefer_few_rows(graph: nn.Module) -> None:
    """Let the graph's linear layers and heads choose between both ways. Their parameters stay as they are."""
    kinds: dict[type, Any] = {nn.Linear: FewRowsLinear, nn.Embedding: FewRowsEmbedding}

    def chosen(module: nn.Module) -> nn.Module:
        return cast(nn.Module, kinds[type(module)](module)) if type(module) in kinds else module

    graph.update_modules(tree_map(chosen, graph.leaf_modules(), is_leaf=nn.Module.is_module))
