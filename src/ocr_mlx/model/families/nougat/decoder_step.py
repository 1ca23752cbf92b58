"""A step of the decoder that `decoder` defines, through numpy; see `layers.host_step`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np
from mlx import nn

from ocr_mlx.model.layers.activations import activate
from ocr_mlx.model.layers.attention import Mask as PlainMask
from ocr_mlx.model.layers.few_rows import is_few
from ocr_mlx.model.layers.host import Floats
from ocr_mlx.model.layers.host_step import are_plain, layer_norm, linear
from ocr_mlx.model.layers.kv_cache import BatchKVCache
from ocr_mlx.model.layers.reach import Reach, attend_within_on_host

Mask = PlainMask | Reach
Norms = tuple[nn.Module, nn.Module]
"""Before the layers, and behind them."""
Pictures = Sequence[tuple[mx.array, mx.array]]
"""Each layer's keys and values [rows, heads, cells, size]."""


def fits(x: mx.array, layers: Sequence[nn.Module], norms: Norms) -> bool:
    """Whether `step` takes x [rows, length, width], these layers and norms."""
    return is_few(x, norms[1].weight) and are_plain(norms) and all(are_plain(_modules(layer)) for layer in layers)


def _modules(layer: nn.Module) -> Iterator[nn.Module]:
    for child in layer.values():
        yield from child.values() if "q_proj" in child else (child,)


def step(x: mx.array, layers: Sequence[nn.Module], norms: Norms, pictures: Pictures, cache: BatchKVCache) -> mx.array:
    """What norms and layers make of x [rows, length, width], with keys and values written to the cache. Evaluates x."""
    mask = cache.mask(x.shape[1])
    with np.errstate(all="ignore"):  # as through mlx, what is not a number shows in the logits
        held = layer_norm(norms[0], np.asarray(x))
        for index, (layer, picture) in enumerate(zip(layers, pictures, strict=True)):
            held += _text(layer.self_attn, layer_norm(layer.self_attn_layer_norm, held), cache, index, mask)
            keys, values = (np.asarray(part) for part in picture)
            held += _attend(layer.encoder_attn, layer_norm(layer.encoder_attn_layer_norm, held), keys, values)
            held += _feed_forward(layer, layer_norm(layer.final_layer_norm, held))
        return mx.array(layer_norm(norms[1], held))


def _text(attn: nn.Module, x: Floats, cache: BatchKVCache, index: int, mask: Mask) -> Floats:
    keys, values = (_heads(linear(layer, x), attn.heads) for layer in (attn.k_proj, attn.v_proj))
    return _attend(attn, x, *cache.append_on_host(index, keys, values), mask)


def _attend(attn: nn.Module, x: Floats, keys: Floats, values: Floats, mask: Mask = None) -> Floats:
    queries = _heads(linear(attn.q_proj, x), attn.heads)
    queries *= np.float32(attn.scale)
    mixed = attend_within_on_host(queries, keys, values, mask)
    return linear(attn.out_proj, mixed.swapaxes(1, 2).reshape(x.shape))


def _feed_forward(layer: nn.Module, x: Floats) -> Floats:
    return linear(layer.fc2, activate(layer.activation, linear(layer.fc1, x)))


def _heads(x: Floats, heads: int) -> Floats:
    """[rows, heads, length, size] of x [rows, length, width]."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)
