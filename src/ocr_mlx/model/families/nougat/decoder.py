"""MBart's decoder: text so far and an encoded picture to the next token's logits."""

from __future__ import annotations

import math

import mlx.core as mx
from mlx import nn

from ocr_mlx.model.families.nougat import decoder_step
from ocr_mlx.model.families.nougat.config import DecoderConfig
from ocr_mlx.model.layers.activations import activation
from ocr_mlx.model.layers.attention import Mask as PlainMask
from ocr_mlx.model.layers.kv_cache import BatchKVCache
from ocr_mlx.model.layers.reach import Reach, attend_within

OFFSET = 2
"""Position 0 is row 2 of the table."""
Mask = PlainMask | Reach
KeysValues = tuple[mx.array, mx.array]


class Attention(nn.Module):
    """Multi-head attention with biases everywhere."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads = config.decoder_attention_heads
        self.scale = (width // self.heads) ** -0.5
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def keys_values(self, x: mx.array) -> KeysValues:
        """Keys and values [rows, heads, length, size] of x [rows, length, width]."""
        return self._heads(self.k_proj(x)), self._heads(self.v_proj(x))

    def __call__(self, x: mx.array, keys: mx.array, values: mx.array, mask: Mask = None) -> mx.array:
        """Look from x [rows, length, width] at these keys and values."""
        queries = self._heads(self.q_proj(x))
        mixed = attend_within(queries, keys, values, scale=self.scale, mask=mask)
        return self.out_proj(mixed.swapaxes(1, 2).reshape(x.shape))

    def _heads(self, x: mx.array) -> mx.array:
        rows, length, width = x.shape
        return x.reshape(rows, length, self.heads, width // self.heads).swapaxes(1, 2)


class Layer(nn.Module):
    """Attention to the text, to the picture, and a small network, each behind a norm and added to its input."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.d_model
        self.self_attn = Attention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = Attention(config)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.decoder_ffn_dim)
        self.fc2 = nn.Linear(config.decoder_ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.activation = activation(config.activation_function)

    def __call__(self, x: mx.array, picture: KeysValues, cache: BatchKVCache, index: int, mask: Mask) -> mx.array:
        """Map x [rows, length, width]; writes this layer's keys and values to the cache."""
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn(normed, *cache.append(index, *self.self_attn.keys_values(normed)), mask)
        x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), *picture)
        return x + self.fc2(self.activation(self.fc1(self.final_layer_norm(x))))


class Decoder(nn.Module):
    """Embeddings, layers, norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + OFFSET, config.d_model)
        self.layers = [Layer(config) for _ in range(config.decoder_layers)]
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model)

    def __call__(self, tokens: mx.array, pictures: list[KeysValues], cache: BatchKVCache) -> mx.array:
        """Append tokens [rows, length] to the cache: hidden states [rows, length, d_model]."""
        length = tokens.shape[1]
        x = self.embed_tokens(tokens) * self.scale + self.embed_positions(cache.positions(length) + OFFSET)
        norms = (self.layernorm_embedding, self.layer_norm)
        if decoder_step.fits(x, self.layers, norms):
            hidden = decoder_step.step(x, self.layers, norms, pictures, cache)
        else:
            hidden = self._through_mlx(x, pictures, cache)
        cache.advance(length)
        return hidden

    def _through_mlx(self, x: mx.array, pictures: list[KeysValues], cache: BatchKVCache) -> mx.array:
        x, mask = self.layernorm_embedding(x), cache.mask(x.shape[1])
        for index, (layer, picture) in enumerate(zip(self.layers, pictures, strict=True)):
            x = layer(x, picture, cache, index, mask)
        hidden: mx.array = self.layer_norm(x)
        return hidden


class Model(nn.Module):
    """The level that the checkpoint's names have between the head and the decoder."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.decoder = Decoder(config)


class MBartForCausalLM(nn.Module):
    """The decoder and its head, which is the token embedding itself where they are tied."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.model = Model(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def pictures(self, encoded: mx.array) -> list[KeysValues]:
        """Each layer's keys and values of the encoded pictures [rows, cells, d_model], computed once per picture.

        Laid out as attention reads them: a view would be copied at every step.
        """
        pairs = (layer.encoder_attn.keys_values(encoded) for layer in self.model.decoder.layers)
        return [(mx.contiguous(keys), mx.contiguous(values)) for keys, values in pairs]

    def __call__(self, tokens: mx.array, pictures: list[KeysValues], cache: BatchKVCache) -> mx.array:
        """Append tokens [rows, length]: logits [rows, length, vocabulary]."""
        x = self.model.decoder(tokens, pictures, cache)
        logits: mx.array = self.lm_head(x) if "lm_head" in self else self.model.decoder.embed_tokens.as_linear(x)
        return logits
