"""The text decoder that Llama, Qwen2 and Qwen3 share, under the names of their checkpoints.

Source: transformers 5.23, `models/llama`, `models/qwen2`, `models/qwen3`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn

from ocr_mlx.model.base import DecodeState
from ocr_mlx.model.layers import decoder_step
from ocr_mlx.model.layers.activations import silu
from ocr_mlx.model.layers.attention import Mask as PlainMask
from ocr_mlx.model.layers.host_step import Turn
from ocr_mlx.model.layers.kv_cache import BatchKVCache
from ocr_mlx.model.layers.reach import Reach, attend_within

Mask = PlainMask | Reach
Rotate = Callable[[mx.array], mx.array]
"""Turns queries or keys [rows, heads, length, size] by their positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """Hyper-parameters, under the names of config.json."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_word_embeddings: bool = True

    @classmethod
    def read(cls, config: Mapping[str, Any], **defaults: Any) -> DecoderConfig:
        """The decoder's part of a config.json over `defaults`.

        Raises KeyError for what neither has, ValueError for a value that cannot be.
        """
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in config.items() if name in known and value is not None}
        rope = config.get("rope_parameters") or {}
        if "rope_theta" in rope:
            given["rope_theta"] = rope["rope_theta"]
        values = defaults | given
        for name in _NEEDED:
            if name not in values:
                raise KeyError(name)
        values.setdefault("num_key_value_heads", values["num_attention_heads"])
        for name, value in values.items():
            _check(name, value)
        values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
        return cls(**values)


_NEEDED: Final = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)


def _check(name: str, value: Any) -> None:
    """Raise ValueError unless a number is above 0, and whole where it counts something."""
    if name in _FLAGS:
        return
    kinds = int | float if name in _REAL else int
    if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}, not a positive {'' if name in _REAL else 'whole '}number")


_FLAGS: Final = ("qkv_bias", "qk_norm", "tie_word_embeddings")
_REAL: Final = ("rms_norm_eps", "rope_theta")


class DecoderState:
    """Keys and values of a batch of rows; `shifts[row]` is how far its positions are ahead of the tokens it holds."""

    def __init__(self, cache: BatchKVCache, shifts: Sequence[int] | None = None) -> None:
        self.cache = cache
        self.shifts = list(shifts) if shifts is not None else [0] * cache.rows

    @property
    def rows(self) -> int:
        """How many rows are in the batch."""
        return self.cache.rows

    @property
    def nbytes(self) -> int:
        """Bytes held by the caches."""
        return self.cache.nbytes

    @property
    def starts(self) -> list[int]:
        """The next token's position in each row."""
        return [length + shift for length, shift in zip(self.cache.lengths, self.shifts, strict=True)]

    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate together with a step's tokens."""
        return self.cache.arrays()

    def merge(self, other: DecodeState) -> None:
        """Append the other state's rows behind this one's. Raises TypeError for another family's state."""
        if not isinstance(other, DecoderState):
            raise TypeError("only states of the same graph can be merged")
        self.cache.merge(other.cache)
        self.shifts += other.shifts

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        self.cache.keep(rows)
        self.shifts = [self.shifts[row] for row in rows]

    def trim(self, counts: Sequence[int]) -> None:
        """Forget the last `counts[i]` tokens of row i."""
        self.cache.trim(counts)

    def stand_apart(self) -> None:
        """Attend over each row by itself from now on."""
        self.cache.apart = True


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.size = config.head_dim
        self.scale = self.size**-0.5
        width, bias = config.hidden_size, config.qkv_bias
        self.q_proj = nn.Linear(width, self.heads * self.size, bias=bias)
        self.k_proj = nn.Linear(width, self.groups * self.size, bias=bias)
        self.v_proj = nn.Linear(width, self.groups * self.size, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.size, width, bias=False)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(self.size, eps=config.rms_norm_eps)
            self.k_norm = nn.RMSNorm(self.size, eps=config.rms_norm_eps)

    def project(self, x: mx.array, rotate: Rotate) -> tuple[mx.array, mx.array, mx.array]:
        """Queries [rows, heads, length, size], keys and values [rows, groups, length, size] of x [rows, length, width]."""
        rows, length, _ = x.shape
        queries = self.q_proj(x).reshape(rows, length, self.heads, self.size)
        keys = self.k_proj(x).reshape(rows, length, self.groups, self.size)
        values = self.v_proj(x).reshape(rows, length, self.groups, self.size)
        if "q_norm" in self:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        return rotate(queries.swapaxes(1, 2)), rotate(keys.swapaxes(1, 2)), values.swapaxes(1, 2)

    def mix(self, queries: mx.array, keys: mx.array, values: mx.array, mask: Mask) -> mx.array:
        """What the queries see, [rows, length, width]."""
        rows, _, length, _ = queries.shape
        mixed = attend_within(queries, keys, values, scale=self.scale, mask=mask)
        out: mx.array = self.o_proj(mixed.swapaxes(1, 2).reshape(rows, length, -1))
        return out


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, inner: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., width]."""
        out: mx.array = self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention and a feed-forward network, each behind a norm and added to its input."""

    def __init__(self, config: DecoderConfig, mlp: nn.Module) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = mlp
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, cache: BatchKVCache, index: int, rotate: Rotate, mask: Mask) -> mx.array:
        """Map x [rows, length, width]; writes this layer's keys and values to the cache."""
        queries, keys, values = self.self_attn.project(self.input_layernorm(x), rotate)
        return self._rest(x, queries, *cache.append(index, keys, values), mask)

    def forward_plain(self, x: mx.array, rotate: Rotate, mask: Mask) -> mx.array:
        """Map x [rows, length, width] without a cache."""
        return self._rest(x, *self.self_attn.project(self.input_layernorm(x), rotate), mask)

    def _rest(self, x: mx.array, queries: mx.array, keys: mx.array, values: mx.array, mask: Mask) -> mx.array:
        x = x + self.self_attn.mix(queries, keys, values, mask)
        out: mx.array = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Embeddings, layers, norm. `mlp(index)` makes a layer's feed-forward network, SwiGLU unless told otherwise."""

    def __init__(
        self, config: DecoderConfig, mlp: Callable[[int], nn.Module] | None = None, *, vocabulary: bool = True
    ) -> None:
        super().__init__()
        make = mlp or (lambda _index: MLP(config.hidden_size, config.intermediate_size))
        if vocabulary:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Layer(config, make(index)) for index in range(config.num_hidden_layers)]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self._size = config.head_dim
        self._periods = rope_periods(config.head_dim, config.rope_theta)

    def new_state(self, rows: int, shifts: Sequence[int] | None = None) -> DecoderState:
        """An empty state for that many rows."""
        return DecoderState(BatchKVCache(len(self.layers), rows), shifts)

    def __call__(
        self, x: mx.array, state: DecoderState, rotate: Rotate | None = None, mask: Mask | None = None
    ) -> mx.array:
        """Append embeddings x [rows, length, width] to the state: hidden states of that shape, after the last norm.

        Positions go on from `state.starts` unless `rotate` knows better; a `mask` replaces the causal one.
        """
        length = x.shape[1]
        seen = state.cache.mask(length) if mask is None else mask
        if rotate is None and decoder_step.fits(x, self.layers, self.norm):
            turn = Turn(state.starts, length, self._periods)
            out = decoder_step.step(x, self.layers, self.norm, state.cache, turn, seen)
        else:
            out = self._through_mlx(x, state, rotate or self.rotation(state.starts), seen)
        state.cache.advance(length)
        return out

    def _through_mlx(self, x: mx.array, state: DecoderState, rotate: Rotate, mask: Mask) -> mx.array:
        for index, layer in enumerate(self.layers):
            x = layer(x, state.cache, index, rotate, mask)
        out: mx.array = self.norm(x)
        return out

    def forward_plain(self, x: mx.array, mask: Mask) -> mx.array:
        """Hidden states of x [rows, length, width] at positions 0 and on, without a cache."""
        turn = self.rotation([0] * x.shape[0])
        for layer in self.layers:
            x = layer.forward_plain(x, turn, mask)
        out: mx.array = self.norm(x)
        return out

    def rotation(self, starts: Sequence[int]) -> Rotate:
        """Standard rotary positions, row by row from its start on."""
        alike = len(set(starts)) == 1
        offset: Any = starts[0] if alike else mx.array(list(starts))
        periods = mx.array(self._periods)

        def turn(x: mx.array) -> mx.array:
            return mx.fast.rope(x, self._size, traditional=False, base=None, scale=1.0, offset=offset, freqs=periods)

        return turn


def rope_periods(size: int, theta: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What positions are divided by, one for each pair of the head's numbers, [size / 2] in float32."""
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return np.asarray(np.float32(theta) ** exponents, dtype=np.float32)


def place(embeddings: mx.array, token_ids: Sequence[Sequence[int]], image_token: int, features: mx.array) -> mx.array:
    """`embeddings` [rows, length, width] with `features` [rows, n, width] in the places of the image tokens.

    Raises ValueError where a row has not exactly n such tokens.
    """
    rows, length, width = embeddings.shape
    places = np.asarray(token_ids) == image_token
    counts = places.sum(axis=1)
    if (counts != features.shape[1]).any():
        raise ValueError(
            f"rows hold {counts.tolist()} image tokens, the pictures give {features.shape[1]} features each"
        )
    flat = embeddings.reshape(rows * length, width)
    flat[mx.array(np.flatnonzero(places))] = features.reshape(-1, width).astype(flat.dtype)
    return flat.reshape(rows, length, width)
