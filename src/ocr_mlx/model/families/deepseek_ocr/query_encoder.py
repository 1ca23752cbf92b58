"""The encoder of DeepSeek-OCR-2: a Qwen2 decoder that reads SAM's features and writes as many queries' answers.

Source: `deepencoderv2` of the published code, `DeepseekOcr2VisionModel` of transformers 5.23.
"""

from __future__ import annotations

from typing import Final

import mlx.core as mx
from mlx import nn

from ocr_mlx.model.layers.decoder import Decoder, DecoderConfig

SMALL, LARGE = 144, 256
"""Features of a picture of 768 and of one of 1024 pixels on a side, and the queries that there are for each."""
_NAMES: Final = {SMALL: "query_768", LARGE: "query_1024"}


class Inner(nn.Module):
    """A level of the checkpoint's names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class QueryEncoder(nn.Module):
    """Features look at all features; a query looks at all features and at the queries up to itself."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.model = Inner(Decoder(config, vocabulary=False))
        self.query_768 = nn.Embedding(SMALL, config.hidden_size)
        self.query_1024 = nn.Embedding(LARGE, config.hidden_size)

    def __call__(self, features: mx.array) -> mx.array:
        """Read features [pictures, side, side, width] into [pictures, side * side, width].

        Raises ValueError for a side that there are no queries for.
        """
        pictures, side, _, width = features.shape
        count = side * side
        if count not in _NAMES:
            raise ValueError(f"there are queries for {SMALL} or {LARGE} features of a picture, not for {count}")
        queries = mx.broadcast_to(self[_NAMES[count]].weight, (pictures, count, width))
        both = mx.concatenate([features.reshape(pictures, count, width), queries], axis=1)
        hidden: mx.array = self.model.model.forward_plain(both, seen(count))
        return hidden[:, count:]


def seen(count: int) -> mx.array:
    """Who sees whom, bool [2 * count, 2 * count]: features first, then queries."""
    places = mx.arange(2 * count)
    return (places < count) | (places <= places[:, None])
