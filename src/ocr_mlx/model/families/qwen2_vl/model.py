"""The whole graph under the published names: `visual`, `model`, and `lm_head` where it is not the token embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn
from numpy.typing import NDArray

from ocr_mlx.model.base import DecodeState, ModelInputs
from ocr_mlx.model.families.qwen2_vl.config import Qwen2VLConfig
from ocr_mlx.model.families.qwen2_vl.positions import text_positions, text_table
from ocr_mlx.model.families.qwen2_vl.vision import VisionTransformer, rotation
from ocr_mlx.model.layers.decoder import Decoder, DecoderState, place

_KERNEL: Final = "visual.patch_embed.proj.weight"
_HEAD: Final = "lm_head."
_PATCHES_AT_ONCE: Final = 16_384
"""Pictures go through the tower together up to this many patches: more only costs memory."""
Picture = NDArray[np.float32]


class Qwen2VLModel(nn.Module):
    """A `Qwen2VLForConditionalGeneration`."""

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__()
        self.visual = VisionTransformer(config.vision)
        self.model = Decoder(config.text)
        if not config.text.tie_word_embeddings:
            self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        self.max_positions = config.text.max_position_embeddings
        self._config = config

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Turn the patch kernel channels last, drop a tied head."""
        clean = {name: array for name, array in weights.items() if "lm_head" in self or not name.startswith(_HEAD)}
        if (kernel := clean.get(_KERNEL)) is not None:
            clean[_KERNEL] = self._channels_last(kernel)
        return clean

    def prefill(self, inputs: Sequence[ModelInputs]) -> tuple[mx.array, DecoderState]:
        """Read pictures and prompts of rows of one shape: first logits [rows, vocabulary], and the rows' state.

        Raises ValueError where a row's pictures and its prompt's image tokens do not match.
        """
        config, ids = self._config, [row.token_ids for row in inputs]
        pictures = [pictures_of(row) for row in inputs]
        x = self.model.embed_tokens(mx.array(ids, dtype=mx.int32))
        if pictures[0]:
            x = place(x, ids, config.image_token_id, self.look(pictures))
        grids = [[self._grid(picture) for picture in row] for row in pictures]
        found = [text_positions(row, config.image_token_id, grid) for row, grid in zip(ids, grids, strict=True)]
        state = self.model.new_state(len(inputs), [shift for _, shift in found])
        positions = np.stack([position for position, _ in found])[:, None]  # one for all heads
        table = text_table(positions, config.text.head_dim, config.text.rope_theta, config.mrope_section)
        hidden = self.model(x, state, rotation(table))
        return self._logits(hidden[:, -1]), state

    def decode(self, tokens: mx.array, state: DecodeState) -> mx.array:
        """Append tokens [rows, count] to the state: logits [rows, count, vocabulary]."""
        if not isinstance(state, DecoderState):
            raise TypeError("this state belongs to another graph")
        return self._logits(self.model(self.model.embed_tokens(tokens), state))

    def look(self, pictures: Sequence[Sequence[Picture]]) -> mx.array:
        """The features [rows, tokens, width] of each row's pictures; pictures of one size share a pass."""
        flat = [picture for row in pictures for picture in row]
        seen: dict[int, mx.array] = {}
        for shape in dict.fromkeys(picture.shape for picture in flat):
            alike = [index for index, picture in enumerate(flat) if picture.shape == shape]
            at_once = max(1, _PATCHES_AT_ONCE * self._config.vision.patch_size**2 // (shape[0] * shape[1]))
            for start in range(0, len(alike), at_once):
                group = alike[start : start + at_once]
                features = self.visual(mx.array(np.stack([flat[index] for index in group])))
                mx.eval(features)  # one group's scratch is free before the next
                seen |= dict(zip(group, features, strict=True))
        count = len(pictures[0])
        rows = range(0, len(flat), count)
        return mx.stack([mx.concatenate([seen[index] for index in range(row, row + count)]) for row in rows])

    def _logits(self, hidden: mx.array) -> mx.array:
        logits: mx.array = self.lm_head(hidden) if "lm_head" in self else self.model.embed_tokens.as_linear(hidden)
        return logits

    def _grid(self, picture: Picture) -> tuple[int, int]:
        factor = self._config.vision.factor
        return picture.shape[0] // factor, picture.shape[1] // factor

    def _channels_last(self, kernel: mx.array) -> mx.array:
        out, frames, high, wide, channels = wanted = self.visual.patch_embed.proj.weight.shape
        turn = kernel.shape == (out, channels, frames, high, wide) and kernel.shape != wanted
        return kernel.transpose(0, 2, 3, 4, 1) if turn else kernel


def pictures_of(row: ModelInputs) -> list[Picture]:
    """A row's pictures in the order of its prompt."""
    return [] if row.pixels is None else [row.pixels, *row.extras.values()]


def build(config: Mapping[str, Any]) -> Qwen2VLModel:
    """The graph that a config.json describes, with random weights that are never computed unless asked for."""
    return Qwen2VLModel(Qwen2VLConfig.read(config))
