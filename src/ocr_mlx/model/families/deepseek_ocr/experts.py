"""Mixture of experts: a router, the routed experts' weights in one stack per projection, and the experts all tokens see.

Source: `DeepseekV2MoE` of the published code without latent attention, `UnlimitedOcrTextMoe` of transformers 5.23: the
softmax over all experts in float32, the largest taken, their weights not made whole, and their sum in float32.
"""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn

from ocr_mlx.model.families.deepseek_ocr.config import MoeConfig
from ocr_mlx.model.layers.activations import silu
from ocr_mlx.model.layers.decoder import MLP
from ocr_mlx.model.layers.few_rows import each_by_its_own
from ocr_mlx.model.layers.host import on_cpu

_SORT_FROM: Final = 64
"""From this many picks on, sorting them by expert pays: kernels read each expert's weights once."""
_LOOP_FROM: Final = 8
"""From this many picks per expert on, a CPU is faster with one matrix product per expert (measured: 2 times at 12)."""


class Stacked(nn.Module):
    """One linear layer per expert, [experts, outputs, inputs]."""

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = mx.zeros((experts, outputs, inputs))

    def gather(self, x: mx.array, ids: mx.array, ordered: bool) -> mx.array:
        """Map each x [picks, inputs] with the expert of its id; `ordered` says that the ids ascend."""
        if not ordered and x.dtype == self.weight.dtype == mx.float32 and on_cpu():
            return each_by_its_own(x, self.weight, ids)
        weight = self.weight.swapaxes(-1, -2)
        return mx.gather_mm(x[:, None], weight, rhs_indices=ids, sorted_indices=ordered)[:, 0]

    def one(self, x: mx.array, expert: int) -> mx.array:
        """Map x [..., inputs] with one expert."""
        return x @ self.weight[expert].T

    def to_quantized(self, group_size: int | None = None, bits: int | None = None, mode: str = "affine") -> nn.Module:
        """The layer packed, as `mlx.nn.quantize` asks for it."""
        return QuantizedStacked(self.weight, group_size, bits, mode)


class QuantizedStacked(nn.Module):
    """`Stacked`, packed."""

    def __init__(self, weight: mx.array, group_size: int | None, bits: int | None, mode: str) -> None:
        super().__init__()
        self._packing: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": mode}
        self.weight, self.scales, *biases = mx.quantize(weight, **self._packing)
        if biases:
            self.biases = biases[0]
        self.freeze()

    def gather(self, x: mx.array, ids: mx.array, ordered: bool) -> mx.array:
        """Map each x [picks, inputs] with the expert of its id; `ordered` says that the ids ascend."""
        return mx.gather_qmm(
            x[:, None],
            self.weight,
            self.scales,
            self.get("biases"),
            rhs_indices=ids,
            transpose=True,
            sorted_indices=ordered,
            **self._packing,
        )[:, 0]

    def one(self, x: mx.array, expert: int) -> mx.array:
        """Map x [..., inputs] with one expert."""
        biases = self.biases[expert] if "biases" in self else None
        return mx.quantized_matmul(x, self.weight[expert], self.scales[expert], biases, transpose=True, **self._packing)


class Experts(nn.Module):
    """The routed experts, each a SwiGLU."""

    def __init__(self, experts: int, width: int, inner: int) -> None:
        super().__init__()
        self._count = experts
        self.gate_proj = Stacked(experts, width, inner)
        self.up_proj = Stacked(experts, width, inner)
        self.down_proj = Stacked(experts, inner, width)

    def __call__(self, x: mx.array, ids: mx.array, weights: mx.array) -> mx.array:
        """The weighted sum, float32 [tokens, width], of the experts `ids` [tokens, chosen] over x [tokens, width]."""
        chosen, picks = ids.shape[1], ids.reshape(-1)
        # A CPU gathers in float32 only.
        loop = on_cpu() and (picks.size >= _LOOP_FROM * self._count or x.dtype != mx.float32)
        if picks.size < _SORT_FROM and not loop:
            mapped = self._gather(mx.repeat(x, chosen, axis=0), picks, ordered=False)
        else:
            order = mx.argsort(picks)
            way = self._loop if loop else self._gather
            mapped = way(x[order // chosen], picks[order])[mx.argsort(order)]
        return (mapped.astype(mx.float32).reshape(*ids.shape, -1) * weights[..., None]).sum(axis=1)

    def _gather(self, x: mx.array, ids: mx.array, ordered: bool = True) -> mx.array:
        inner = silu(self.gate_proj.gather(x, ids, ordered)) * self.up_proj.gather(x, ids, ordered)
        return self.down_proj.gather(inner, ids, ordered)

    def _loop(self, x: mx.array, ids: mx.array) -> mx.array:
        """As `_gather` for ids that ascend, expert by expert."""
        ends = np.cumsum(np.bincount(np.asarray(ids), minlength=self._count)).tolist()
        parts = []
        for expert, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
            if start < stop:
                some = x[start:stop]
                inner = silu(self.gate_proj.one(some, expert)) * self.up_proj.one(some, expert)
                parts.append(self.down_proj.one(inner, expert))
        return mx.concatenate(parts)


class Router(nn.Module):
    """Which experts see a token; always in float32, never packed."""

    def __init__(self, experts: int, width: int, chosen: int) -> None:
        super().__init__()
        self._chosen = chosen
        self.weight = mx.zeros((experts, width))

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """The experts of each x [tokens, width] and their weights, uint32 and float32 [tokens, chosen]."""
        scores = mx.softmax(x.astype(mx.float32) @ self.weight.astype(mx.float32).T, axis=-1)
        ids = mx.argpartition(-scores, kth=self._chosen - 1, axis=-1)[:, : self._chosen]
        return ids, mx.take_along_axis(scores, ids, axis=-1)


class Moe(nn.Module):
    """The feed-forward part of a sparse layer."""

    def __init__(self, config: MoeConfig, width: int) -> None:
        super().__init__()
        self.gate = Router(config.routed, width, config.chosen)
        self.switch_mlp = Experts(config.routed, width, config.width)
        self.shared_experts = MLP(width, config.width * config.shared)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [rows, length, width]."""
        tokens = x.reshape(-1, x.shape[-1])
        routed = self.switch_mlp(tokens, *self.gate(tokens))
        out: mx.array = routed.astype(x.dtype).reshape(x.shape) + self.shared_experts(x)
        return out
