"""The whole graph: the vision towers, and a text decoder with a mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx import nn

from ocr_mlx.model.base import DecodeState, ModelInputs
from ocr_mlx.model.families.deepseek_ocr.config import DeepseekConfig
from ocr_mlx.model.families.deepseek_ocr.encoder import add_towers, read_pictures
from ocr_mlx.model.families.deepseek_ocr.experts import Moe
from ocr_mlx.model.families.deepseek_ocr.layout import join_queries, stack_experts, without_buffers
from ocr_mlx.model.families.deepseek_ocr.window import PromptState
from ocr_mlx.model.layers.decoder import MLP, Decoder, place
from ocr_mlx.model.layers.kernels import channels_last
from ocr_mlx.model.layers.kv_cache import BatchKVCache


class Body(Decoder):
    """The text decoder with the vision towers beside its layers, as the checkpoint's names have it."""

    def __init__(self, config: DeepseekConfig) -> None:
        text, moe = config.text, config.moe
        super().__init__(
            text,
            lambda index: (
                Moe(moe, text.hidden_size) if moe.sparse[index] else MLP(text.hidden_size, text.intermediate_size)
            ),
        )
        add_towers(self, config)


class DeepseekModel(nn.Module):
    """DeepSeek-OCR, DeepSeek-OCR-2, and Unlimited-OCR."""

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__()
        self.model = Body(config)
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        self.max_positions = config.max_position_embeddings
        self._image_token = config.image_token
        self._experts = config.moe.routed
        self._window = config.window

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Drop buffers, join split queries, stack experts, turn kernels channels last."""
        clean = stack_experts(join_queries(without_buffers(weights)), self._experts)
        return channels_last(clean, self)

    def prefill(self, inputs: Sequence[ModelInputs]) -> tuple[mx.array, PromptState]:
        """Read pictures and prompts of rows of one shape: first logits [rows, vocabulary], and the rows' state.

        Raises ValueError for a row without a picture, or with other than its pictures' places in the prompt.
        """
        features = read_pictures(self.model, inputs)
        ids = [row.token_ids for row in inputs]
        words = self.model.embed_tokens(mx.array(ids, dtype=mx.int32))
        state = PromptState(BatchKVCache(len(self.model.layers), len(ids)), [len(row) for row in ids])
        hidden = self.model(place(words, ids, self._image_token, features), state)
        logits: mx.array = self.lm_head(hidden[:, -1])
        return logits, state

    def decode(self, tokens: mx.array, state: DecodeState) -> mx.array:
        """Append tokens [rows, count] to the state: logits [rows, count, vocabulary]."""
        if not isinstance(state, PromptState):
            raise TypeError("this state belongs to another graph")
        words = self.model.embed_tokens(tokens)
        logits: mx.array = self.lm_head(self.model(words, state, mask=state.seen(tokens.shape[1], self._window)))
        return logits


def build(config: Mapping[str, Any]) -> DeepseekModel:
    """The graph that a config.json describes, with weights that are never computed. Raises UnsupportedArchitecture."""
    return DeepseekModel(DeepseekConfig.read(config))
