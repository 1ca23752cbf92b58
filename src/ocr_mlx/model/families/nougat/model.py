"""The whole graph: DonutSwin, a projection where widths differ, and an MBart decoder with cached cross-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from ocr_mlx.model.base import DecodeState, ModelInputs
from ocr_mlx.model.families.nougat.config import NougatConfig
from ocr_mlx.model.families.nougat.decoder import KeysValues, MBartForCausalLM
from ocr_mlx.model.families.nougat.encoder import DonutSwin
from ocr_mlx.model.layers.kv_cache import BatchKVCache

_KERNEL = "encoder.embeddings.patch_embeddings.projection.weight"
_INDEX = ".relative_position_index"
_PIXELS_AT_ONCE = 896 * 672
"""Pictures are encoded together up to this many pixels: more only costs memory."""


class NougatState:
    """Keys and values of the text so far and of the pictures, for a batch of rows."""

    def __init__(self, cache: BatchKVCache, pictures: list[KeysValues]) -> None:
        self.cache = cache
        self.pictures = pictures

    @property
    def rows(self) -> int:
        """How many rows are in the batch."""
        return self.cache.rows

    @property
    def nbytes(self) -> int:
        """Bytes held by the caches."""
        return self.cache.nbytes + sum(part.nbytes for pair in self.pictures for part in pair)

    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate together with a step's tokens."""
        return [*self.cache.arrays(), *(part for pair in self.pictures for part in pair)]

    def merge(self, other: DecodeState) -> None:
        """Append the other state's rows behind this one's. Raises TypeError for another family's state."""
        if not isinstance(other, NougatState):
            raise TypeError("only states of the same graph can be merged")
        self.cache.merge(other.cache)
        self.pictures = [
            (mx.concatenate([mine[0], theirs[0]]), mx.concatenate([mine[1], theirs[1]]))
            for mine, theirs in zip(self.pictures, other.pictures, strict=True)
        ]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        if list(rows) != list(range(self.rows)):
            chosen = mx.array(list(rows), dtype=mx.int32)
            self.pictures = [(mx.take(k, chosen, axis=0), mx.take(v, chosen, axis=0)) for k, v in self.pictures]
        self.cache.keep(rows)

    def trim(self, counts: Sequence[int]) -> None:
        """Forget the last `counts[i]` tokens of row i."""
        self.cache.trim(counts)

    def stand_apart(self) -> None:
        """Attend over each row by itself from now on."""
        self.cache.apart = True


class NougatModel(nn.Module):
    """A `VisionEncoderDecoderModel` under its own names."""

    def __init__(self, config: NougatConfig) -> None:
        super().__init__()
        self.encoder = DonutSwin(config.encoder)
        self.decoder = MBartForCausalLM(config.decoder)
        if config.projected:
            self.enc_to_dec_proj = nn.Linear(config.encoder.hidden_size, config.decoder.d_model)
        self.max_positions = config.decoder.max_position_embeddings

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Drop index buffers and a tied head, turn the patch kernel channels last, accept names one level shorter."""
        buffers = any(name.endswith(_INDEX) for name in weights)
        clean = {_full_name(name): array for name, array in weights.items() if not name.endswith(_INDEX)}
        if "lm_head" not in self.decoder:
            clean.pop("decoder.lm_head.weight", None)
        if _KERNEL in clean:
            clean[_KERNEL] = self._channels_last(clean[_KERNEL], buffers)
        return clean

    def _channels_last(self, kernel: mx.array, upstream: bool) -> mx.array:
        wanted = self.encoder.embeddings.patch_embeddings.projection.weight.shape
        out, high, wide, channels = wanted
        turn = kernel.shape == (out, channels, high, wide) and (kernel.shape != wanted or upstream)
        return kernel.transpose(0, 2, 3, 1) if turn else kernel

    def encode(self, pixels: mx.array) -> mx.array:
        """Read pixels [rows, height, width, channels] into [rows, cells, d_model]."""
        encoded = self.encoder(pixels)
        return self.enc_to_dec_proj(encoded) if "enc_to_dec_proj" in self else encoded

    def prefill(self, inputs: Sequence[ModelInputs]) -> tuple[mx.array, NougatState]:
        """Read pictures and prompts of rows of one shape: first logits [rows, vocabulary], and the rows' state.

        Raises ValueError for a row without a picture.
        """
        pictures = [row.pixels for row in inputs if row.pixels is not None]
        if len(pictures) != len(inputs):
            raise ValueError("every row of this family needs a picture")
        at_once = max(1, _PIXELS_AT_ONCE // (pictures[0].shape[0] * pictures[0].shape[1]))
        groups = [pictures[start : start + at_once] for start in range(0, len(pictures), at_once)]
        encoded = mx.concatenate([self.encode(mx.array(np.stack(group))) for group in groups])
        cache = BatchKVCache(len(self.decoder.model.decoder.layers), len(inputs))
        state = NougatState(cache, self.decoder.pictures(encoded))
        tokens = mx.array([row.token_ids for row in inputs], dtype=mx.int32)
        return self.decode(tokens, state)[:, -1], state

    def decode(self, tokens: mx.array, state: DecodeState) -> mx.array:
        """Append tokens [rows, count] to the state: logits [rows, count, vocabulary]."""
        if not isinstance(state, NougatState):
            raise TypeError("this state belongs to another graph")
        return self.decoder(tokens, state.pictures, state.cache)


def build(config: Mapping[str, Any]) -> NougatModel:
    """The graph that a config.json describes, with random weights that are never computed unless asked for."""
    return NougatModel(NougatConfig.read(config))


def _full_name(name: str) -> str:
    """Some MLX conversions leave out the level `decoder` inside `decoder.model`."""
    short = "decoder.model."
    if name.startswith(short) and not name.startswith("decoder.model.decoder."):
        return f"decoder.model.decoder.{name[len(short) :]}"
    return name
