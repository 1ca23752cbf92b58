"""The whole graph: SAM with its compressor, one linear layer, and a Qwen2 decoder, under the original's names.

Source: `GOT_ocr_2_0.py` of Ucas-HaoranWei/GOT-OCR2.0 and transformers 5.23, `models/got_ocr2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn

from ocr_mlx.model.base import DecodeState, ModelInputs
from ocr_mlx.model.families.got_ocr2.config import GotConfig
from ocr_mlx.model.layers.decoder import Decoder, DecoderState, place
from ocr_mlx.model.layers.host import on_cpu
from ocr_mlx.model.layers.kernels import channels_last
from ocr_mlx.model.layers.sam import SamEncoder

_PIXELS_AT_ONCE: Final = {"cpu": 1024 * 1024, "gpu": 8 * 1024 * 1024}
"""Pictures are encoded together up to this many pixels: more only costs memory, on a CPU from the second page on."""


class GotQwenModel(Decoder):
    """The decoder, and beside its layers the tower and the projection, as the checkpoint has them."""

    def __init__(self, config: GotConfig) -> None:
        super().__init__(config.text)
        width = config.text.hidden_size
        self.vision_tower_high = SamEncoder(config.vision)
        self.mm_projector_vary = nn.Linear(width, width)

    def see(self, pixels: mx.array) -> mx.array:
        """Read pixels [pictures, side, side, 3] into features [pictures, tokens, width], row by row of the grid."""
        grid = self.vision_tower_high(pixels)
        features: mx.array = self.mm_projector_vary(grid.reshape(grid.shape[0], -1, grid.shape[-1]))
        return features


class GotModel(nn.Module):
    """A `GOTQwenForCausalLM` under its own names."""

    def __init__(self, config: GotConfig) -> None:
        super().__init__()
        self.model = GotQwenModel(config)
        if not config.text.tie_word_embeddings:
            self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        self.max_positions = config.text.max_position_embeddings
        self._image_token = config.image_token

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Turn kernels channels last, and drop a head that only repeats the embeddings."""
        kept = {n: a for n, a in weights.items() if "lm_head" in self or not n.startswith("lm_head.")}
        return channels_last(kept, self)

    def encode(self, pixels: mx.array) -> mx.array:
        """Read pixels [pictures, side, side, 3] into features [pictures, tokens, width], some pictures at a time."""
        count, side = pixels.shape[0], pixels.shape[1]
        at_once = max(1, _PIXELS_AT_ONCE["cpu" if on_cpu() else "gpu"] // (side * side))
        parts = []
        for start in range(0, count, at_once):
            parts.append(self.model.see(pixels[start : start + at_once]))
            if at_once < count:
                mx.eval(parts[-1])  # else the arrays of all turns would be laid out together
        return mx.concatenate(parts)

    def prefill(self, inputs: Sequence[ModelInputs]) -> tuple[mx.array, DecoderState]:
        """Read pictures and prompts of rows of one shape: first logits [rows, vocabulary], and the rows' state.

        Raises ValueError for a row without pictures, or whose prompt has not their places.
        """
        stacks = [row.pixels for row in inputs if row.pixels is not None]
        if len(stacks) != len(inputs):
            raise ValueError("every row of this family needs a picture")
        rows, pictures = len(stacks), stacks[0].shape[0]
        features = self.encode(mx.array(np.concatenate(stacks)))
        ids = [row.token_ids for row in inputs]
        embeddings = place(
            self.model.embed_tokens(mx.array(ids, dtype=mx.int32)),
            ids,
            self._image_token,
            features.reshape(rows, pictures * features.shape[1], -1),
        )
        state = self.model.new_state(rows)
        return self._logits(self.model(embeddings, state)[:, -1]), state

    def decode(self, tokens: mx.array, state: DecodeState) -> mx.array:
        """Append tokens [rows, count] to the state: logits [rows, count, vocabulary]."""
        if not isinstance(state, DecoderState):
            raise TypeError("this state belongs to another graph")
        return self._logits(self.model(self.model.embed_tokens(tokens), state))

    def _logits(self, hidden: mx.array) -> mx.array:
        logits: mx.array = self.lm_head(hidden) if "lm_head" in self else self.model.embed_tokens.as_linear(hidden)
        return logits


def build(config: Mapping[str, Any]) -> GotModel:
    """The graph that a config.json describes, with random weights that are never computed unless asked for."""
    return GotModel(GotConfig.read(config))
