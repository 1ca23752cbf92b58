"""A step of the decoder that `decoder` defines, through numpy; see `host_step`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np
from mlx import nn

from ocr_mlx.model.layers.activations import activate, silu
from ocr_mlx.model.layers.attention import Mask as PlainMask
from ocr_mlx.model.layers.few_rows import is_few
from ocr_mlx.model.layers.host import Floats
from ocr_mlx.model.layers.host_step import Turn, are_plain, linear, rms_norm
from ocr_mlx.model.layers.kv_cache import BatchKVCache
from ocr_mlx.model.layers.reach import Reach, attend_within_on_host

Mask = PlainMask | Reach


def fits(x: mx.array, layers: Sequence[nn.Module], norm: nn.Module) -> bool:
    """Whether `step` takes x [rows, length, width], these layers and the norm behind them."""
    return is_few(x, norm.weight) and are_plain([norm]) and all(are_plain(_modules(layer)) for layer in layers)


def _modules(layer: nn.Module) -> Iterator[nn.Module]:
    """What `step` computes of a layer: a feed-forward network of another kind than SwiGLU does that by itself."""
    yield from (layer.input_layernorm, layer.post_attention_layernorm)
    yield from layer.self_attn.values()
    if "gate_proj" in layer.mlp:
        yield from layer.mlp.values()


def step(
    x: mx.array, layers: Sequence[nn.Module], norm: nn.Module, cache: BatchKVCache, turn: Turn, mask: Mask
) -> mx.array:
    """What layers and norm make of x [rows, length, width], with keys and values written to the cache. Evaluates x."""
    held = np.array(x)
    with np.errstate(all="ignore"):  # as through mlx, what is not a number shows in the logits
        for index, layer in enumerate(layers):
            held += _attention(layer.self_attn, rms_norm(layer.input_layernorm, held), cache, index, turn, mask)
            held += _feed_forward(layer.mlp, rms_norm(layer.post_attention_layernorm, held))
        return mx.array(rms_norm(norm, held))


def _attention(attn: nn.Module, x: Floats, cache: BatchKVCache, index: int, turn: Turn, mask: Mask) -> Floats:
    rows, length, _ = x.shape
    queries, keys, values = (
        linear(layer, x).reshape(rows, length, -1, attn.size) for layer in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    if "q_norm" in attn:
        queries, keys = rms_norm(attn.q_norm, queries), rms_norm(attn.k_norm, keys)
    turned = turn(queries.swapaxes(1, 2))
    turned *= np.float32(attn.scale)
    seen = cache.append_on_host(index, turn(keys.swapaxes(1, 2)), values.swapaxes(1, 2))
    mixed = attend_within_on_host(turned, *seen, mask)
    return linear(attn.o_proj, mixed.swapaxes(1, 2).reshape(rows, length, -1))


def _feed_forward(mlp: nn.Module, x: Floats) -> Floats:
    if "gate_proj" not in mlp:
        return np.asarray(mlp(mx.array(x)))
    inner = activate(silu, linear(mlp.gate_proj, x))
    inner *= linear(mlp.up_proj, x)
    return linear(mlp.down_proj, inner)
