"""The whole graph: Pixtral, projector, Qwen3, under the names of the published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn

from ocr_mlx.model.base import DecodeState, ModelInputs
from ocr_mlx.model.families.lighton_ocr.config import LightOnConfig
from ocr_mlx.model.families.lighton_ocr.projector import Projector
from ocr_mlx.model.families.lighton_ocr.vision import PixtralVision
from ocr_mlx.model.layers.decoder import Decoder, DecoderState, place

KERNEL: Final = "model.vision_encoder.patch_conv.weight"
HEAD: Final = "lm_head.weight"
_PIXELS_AT_ONCE: Final = 2 * 1540 * 1204
"""Pictures are encoded together up to this many pixels, two pages: more only costs memory."""


class LightOnParts(nn.Module):
    """What the checkpoint keeps under `model`."""

    def __init__(self, config: LightOnConfig) -> None:
        super().__init__()
        self.vision_encoder = PixtralVision(config.vision)
        self.vision_projection = Projector(config)
        self.language_model = Decoder(config.text)


class LightOnModel(nn.Module):
    """A `LightOnOCRForConditionalGeneration` under its own names; a tied head is the embedding table."""

    def __init__(self, config: LightOnConfig) -> None:
        super().__init__()
        self.model = LightOnParts(config)
        if not config.text.tie_word_embeddings:
            self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        self.max_positions = config.text.max_position_embeddings
        self._image_token = config.image_token_id

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Turn the patch kernel channels last, drop a head that is tied."""
        clean = dict(weights)
        if "lm_head" not in self:
            for name in [name for name in clean if name.startswith("lm_head.")]:
                del clean[name]
        if KERNEL in clean:
            clean[KERNEL] = self._channels_last(clean[KERNEL])
        return clean

    def _channels_last(self, kernel: mx.array) -> mx.array:
        out, high, wide, channels = wanted = self.model.vision_encoder.patch_conv.weight.shape
        upstream = kernel.shape == (out, channels, high, wide) and kernel.shape != wanted
        return kernel.transpose(0, 2, 3, 1) if upstream else kernel

    def see(self, pictures: Sequence[np.ndarray[Any, Any]]) -> mx.array:
        """Features [pictures, tokens, width] of pictures [height, width, channels] of one size."""
        high, wide, _ = pictures[0].shape
        at_once = max(1, _PIXELS_AT_ONCE // (high * wide))
        parts = []
        for start in range(0, len(pictures), at_once):
            pixels = mx.array(np.stack(pictures[start : start + at_once]))
            parts.append(self.model.vision_projection(self.model.vision_encoder(pixels)))
            if len(pictures) > at_once:
                mx.eval(parts[-1])  # else all pictures' patches would be held together
        return mx.concatenate(parts) if len(parts) > 1 else parts[0]

    def prefill(self, inputs: Sequence[ModelInputs]) -> tuple[mx.array, DecoderState]:
        """Read pictures and prompts of rows of one shape: first logits [rows, vocabulary], and the rows' state.

        Raises ValueError for a row without a picture, or whose pictures do not fill its image tokens.
        """
        text = self.model.language_model
        token_ids = [row.token_ids for row in inputs]
        x = text.embed_tokens(mx.array(token_ids, dtype=mx.int32))
        features = [self.see(pictures) for pictures in _pictures(inputs)]
        x = place(x, token_ids, self._image_token, mx.concatenate(features, axis=1))
        state = text.new_state(len(inputs))
        return self._logits(text(x, state)[:, -1]), state

    def decode(self, tokens: mx.array, state: DecodeState) -> mx.array:
        """Append tokens [rows, count] to the state: logits [rows, count, vocabulary]."""
        if not isinstance(state, DecoderState):
            raise TypeError("this state belongs to another graph")
        text = self.model.language_model
        return self._logits(text(text.embed_tokens(tokens), state))

    def _logits(self, hidden: mx.array) -> mx.array:
        if "lm_head" in self:
            out: mx.array = self.lm_head(hidden)
        else:
            out = self.model.language_model.embed_tokens.as_linear(hidden)
        return out


def _pictures(inputs: Sequence[ModelInputs]) -> list[list[np.ndarray[Any, Any]]]:
    """The rows' first pictures, their second ones and so on; all of one place have one size."""
    first = [row.pixels for row in inputs if row.pixels is not None]
    if len(first) != len(inputs):
        raise ValueError("every row of this family needs a picture")
    return [first, *([row.extras[name] for row in inputs] for name in sorted(inputs[0].extras))]


def build(config: Mapping[str, Any]) -> LightOnModel:
    """The graph that a config.json describes, with random weights that are never computed unless asked for."""
    return LightOnModel(LightOnConfig.read(config))
