"""Nougat as a plain MLX port has it: the yardstick for what the graph in `model/families/nougat` gains.

Written anew after what the public port mlx-nougat (June 2024) does, step by step and no better:

- windows by a cyclic roll (two gathers), a six-dimensional transposed copy, and the same way back;
- the shift's mask made anew in every shifted block, the position bias gathered anew in every block;
- attention in the encoder written out: product, scaling, bias, mask, softmax, product; `nn.gelu` everywhere;
- keys and values of the text grown by `mx.concatenate` at every step; those of the picture computed once, kept as views;
- one token at a time: the host waits for each before it asks for the next.
"""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn

Pair = tuple[mx.array, mx.array]
LayerCache = tuple[Pair, Pair]
"""Keys and values of the text so far, and of the picture."""
_BLOCKED = -100.0
_OFFSET = 2


class _Weights:
    """A checkpoint's tensors by name, and the layers that only need a name."""

    def __init__(self, folder: Path) -> None:
        found: Any = mx.load(str(folder / "model.safetensors"))
        self.all: dict[str, mx.array] = {name: array.astype(mx.float32) for name, array in found.items()}
        mx.eval(self.all)

    def linear(self, name: str, x: mx.array) -> mx.array:
        """What `nn.Linear` computes."""
        weight, bias = self.all[f"{name}.weight"], self.all.get(f"{name}.bias")
        return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)

    def norm(self, name: str, x: mx.array, eps: float = 1e-5) -> mx.array:
        """What `nn.LayerNorm` computes."""
        return mx.fast.layer_norm(x, self.all[f"{name}.weight"], self.all[f"{name}.bias"], eps)


class PlainNougat:
    """One picture at a time."""

    def __init__(self, folder: Path) -> None:
        """Read a folder with config.json and one model.safetensors, without absolute positions in the encoder."""
        config = json.loads((folder / "config.json").read_text())
        self._weights = _Weights(folder)
        self._swin, self._mbart = config["encoder"], config["decoder"]
        side = self._swin["window_size"]
        rows, columns = mx.divmod(mx.arange(side * side), side)
        down, right = rows[:, None] - rows[None] + side - 1, columns[:, None] - columns[None] + side - 1
        self._index = (down * (2 * side - 1) + right).reshape(-1)
        mx.eval(self._index)

    def encode(self, pixels: mx.array) -> mx.array:
        """Read pixels [1, height, width, channels] into [1, cells, d_model]."""
        weights, prefix = self._weights, "encoder.embeddings"
        kernel = weights.all[f"{prefix}.patch_embeddings.projection.weight"].transpose(0, 2, 3, 1)
        x = mx.conv2d(pixels, kernel, stride=kernel.shape[1])
        x = x + weights.all[f"{prefix}.patch_embeddings.projection.bias"]
        grid = x.shape[1:3]
        x = weights.norm(f"{prefix}.norm", x.reshape(1, -1, x.shape[-1]))
        for stage, depth in enumerate(self._swin["depths"]):
            name = f"encoder.encoder.layers.{stage}"
            for index in range(depth):
                x = self._block(f"{name}.blocks.{index}", x, grid, self._swin["num_heads"][stage], index % 2 == 1)
            if stage + 1 < len(self._swin["depths"]):
                x, grid = self._merge(f"{name}.downsample", x, grid)
        return weights.linear("enc_to_dec_proj", x) if "enc_to_dec_proj.weight" in weights.all else x

    def step(
        self, token: mx.array, cache: list[LayerCache] | None, encoded: mx.array
    ) -> tuple[mx.array, list[LayerCache]]:
        """One token [1] behind the cache: logits [1, 1, vocabulary] and the cache that goes on."""
        weights, prefix, config = self._weights, "decoder.model.decoder", self._mbart
        length = cache[0][0][0].shape[2] if cache else 0
        scale = math.sqrt(config["d_model"]) if config.get("scale_embedding") else 1.0
        x = weights.all[f"{prefix}.embed_tokens.weight"][token] * scale
        x = x + weights.all[f"{prefix}.embed_positions.weight"][mx.array(length + _OFFSET)]
        x = weights.norm(f"{prefix}.layernorm_embedding", x).reshape(1, 1, -1)
        grown = []
        for index in range(config["decoder_layers"]):
            x, layer = self._layer(f"{prefix}.layers.{index}", x, cache[index] if cache else None, encoded)
            grown.append(layer)
        x = weights.norm(f"{prefix}.layer_norm", x)
        head = "decoder.lm_head.weight"
        table = weights.all[head if head in weights.all else f"{prefix}.embed_tokens.weight"]
        return x @ table.T, grown

    def _block(self, name: str, x: mx.array, grid: tuple[int, ...], heads: int, shifted: bool) -> mx.array:
        (rows, columns), width, side = grid, x.shape[-1], self._swin["window_size"]
        shift = side // 2 if shifted and min(grid) > side else 0
        y = self._weights.norm(f"{name}.layernorm_before", x).reshape(1, rows, columns, width)
        y = mx.pad(y, [(0, 0), (0, -rows % side), (0, -columns % side), (0, 0)])
        full = y.shape[1:3]
        y = _rolled(y, shift) if shift else y
        mask = _mask(full, side, shift) if shift else None
        y = _joined(self._attend(f"{name}.attention", _windows(y, side), heads, mask), full, side)
        y = _rolled(y, -shift) if shift else y
        x = x + y[:, :rows, :columns].reshape(1, rows * columns, width)
        y = self._weights.norm(f"{name}.layernorm_after", x)
        y = nn.gelu(self._weights.linear(f"{name}.intermediate.dense", y))
        return x + self._weights.linear(f"{name}.output.dense", y)

    def _attend(self, name: str, x: mx.array, heads: int, mask: mx.array | None) -> mx.array:
        count, cells, width = x.shape
        queries, keys, values = (
            self._weights.linear(f"{name}.self.{part}", x).reshape(count, cells, heads, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = (queries @ keys.transpose(0, 1, 3, 2)) / math.sqrt(width // heads)
        bias = self._weights.all[f"{name}.self.relative_position_bias_table"][self._index]
        scores = scores + bias.reshape(cells, cells, heads).transpose(2, 0, 1)[None]
        if mask is not None:
            scores = scores + mask[:, None]
        mixed = (mx.softmax(scores, axis=-1) @ values).transpose(0, 2, 1, 3).reshape(count, cells, width)
        return self._weights.linear(f"{name}.output.dense", mixed)

    def _merge(self, name: str, x: mx.array, grid: tuple[int, ...]) -> tuple[mx.array, tuple[int, ...]]:
        (rows, columns), width = grid, x.shape[-1]
        x = mx.pad(x.reshape(1, rows, columns, width), [(0, 0), (0, rows % 2), (0, columns % 2), (0, 0)])
        parts = [x[:, down::2, right::2] for right, down in product((0, 1), (0, 1))]
        half = parts[0].shape[1:3]
        joined = mx.concatenate(parts, axis=-1).reshape(1, -1, 4 * width)
        return self._weights.linear(f"{name}.reduction", self._weights.norm(f"{name}.norm", joined)), half

    def _layer(
        self, name: str, x: mx.array, cache: LayerCache | None, encoded: mx.array
    ) -> tuple[mx.array, LayerCache]:
        weights = self._weights
        y = weights.norm(f"{name}.self_attn_layer_norm", x)
        text = self._pair(f"{name}.self_attn", y)
        if cache:
            text = mx.concatenate([cache[0][0], text[0]], axis=2), mx.concatenate([cache[0][1], text[1]], axis=2)
        x = x + self._look(f"{name}.self_attn", y, text)
        picture = cache[1] if cache else self._pair(f"{name}.encoder_attn", encoded)
        x = x + self._look(f"{name}.encoder_attn", weights.norm(f"{name}.encoder_attn_layer_norm", x), picture)
        y = nn.gelu(weights.linear(f"{name}.fc1", weights.norm(f"{name}.final_layer_norm", x)))
        return x + weights.linear(f"{name}.fc2", y), (text, picture)

    def _heads(self, x: mx.array) -> mx.array:
        heads = self._mbart["decoder_attention_heads"]
        return x.reshape(1, x.shape[1], heads, x.shape[-1] // heads).transpose(0, 2, 1, 3)

    def _pair(self, name: str, x: mx.array) -> Pair:
        return self._heads(self._weights.linear(f"{name}.k_proj", x)), self._heads(
            self._weights.linear(f"{name}.v_proj", x)
        )

    def _look(self, name: str, x: mx.array, pair: Pair) -> mx.array:
        queries = self._heads(self._weights.linear(f"{name}.q_proj", x))
        mixed = mx.fast.scaled_dot_product_attention(queries, *pair, scale=queries.shape[-1] ** -0.5)
        return self._weights.linear(f"{name}.out_proj", mixed.transpose(0, 2, 1, 3).reshape(x.shape))


def _rolled(x: mx.array, shift: int) -> mx.array:
    """[1, rows, columns, width] with cell (i + shift, j + shift) at (i, j), round the edges."""
    for axis in (1, 2):
        count = x.shape[axis]
        x = mx.take(x, (mx.arange(count) + shift) % count, axis=axis)
    return x


def _windows(x: mx.array, side: int) -> mx.array:
    """[1, rows, columns, width] -> [windows, cells, width]."""
    _, rows, columns, width = x.shape
    parted = x.reshape(1, rows // side, side, columns // side, side, width)
    return parted.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side * side, width)


def _joined(x: mx.array, full: tuple[int, ...], side: int) -> mx.array:
    """The inverse of `_windows`."""
    rows, columns = full
    parted = x.reshape(1, rows // side, columns // side, side, side, x.shape[-1])
    return parted.transpose(0, 1, 3, 2, 4, 5).reshape(1, rows, columns, x.shape[-1])


def _mask(full: tuple[int, ...], side: int, shift: int) -> mx.array:
    """[windows, cells, cells]: what keeps apart cells that only the roll brought together."""
    region = mx.zeros((1, *full, 1))
    cuts = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
    for number, (down, right) in enumerate(product(cuts, cuts)):
        region[:, down, right] = number
    cells = _windows(region, side)[..., 0]
    return mx.where(cells[:, None] != cells[:, :, None], _BLOCKED, 0.0)
