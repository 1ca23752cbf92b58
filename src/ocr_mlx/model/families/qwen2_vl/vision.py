"""The vision tower: pictures of any size as patches, four of which become one token.

Source: transformers 5.23, `Qwen2VisionTransformerPretrainedModel`. Every patch sees every other of its picture.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
from mlx import nn

from ocr_mlx.model.families.qwen2_vl.config import VisionConfig
from ocr_mlx.model.families.qwen2_vl.positions import Table, vision_table
from ocr_mlx.model.layers.activations import activation
from ocr_mlx.model.layers.attention import attend

Rotate = Callable[[mx.array], mx.array]
_CHANNELS = 3
_EPS = 1e-6


def rotation(table: Table) -> Rotate:
    """Turns [rows, heads, length, size] by a table [..., length, size] in float32, halves of a head against each other."""
    cosines, sines = mx.array(table[0]), mx.array(table[1])

    def turn(x: mx.array) -> mx.array:
        wide = x.astype(mx.float32)
        left, right = mx.split(wide, 2, axis=-1)
        turned = wide * cosines + mx.concatenate([-right, left], axis=-1) * sines
        return turned.astype(x.dtype)

    return turn


class PatchEmbed(nn.Module):
    """Patches to vectors. The kernel spans frames; a picture is the same frame all along."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(_CHANNELS, config.embed_dim, kernel_size=kernel, stride=kernel, bias=False)

    def __call__(self, patches: mx.array) -> mx.array:
        """Map patches [rows, patches, height, width, channels] to [rows, patches, embed_dim]."""
        kernel = self.proj.weight
        frames = mx.broadcast_to(patches[:, :, None], (*patches.shape[:2], *kernel.shape[1:]))
        return frames.astype(kernel.dtype).flatten(2) @ kernel.flatten(1).T


class Attention(nn.Module):
    """Multi-head attention over all patches of a picture, turned by row and column."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.scale = (config.embed_dim // config.num_heads) ** -0.5
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def __call__(self, x: mx.array, rotate: Rotate) -> mx.array:
        """Map x [rows, patches, embed_dim]."""
        rows, length, width = x.shape
        split = self.qkv(x).reshape(rows, length, 3, self.heads, width // self.heads).transpose(2, 0, 3, 1, 4)
        mixed = attend(rotate(split[0]), rotate(split[1]), split[2], scale=self.scale)
        out: mx.array = self.proj(mixed.swapaxes(1, 2).reshape(x.shape))
        return out


class Mlp(nn.Module):
    """Two layers with an activation between."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        inner = int(config.embed_dim * config.mlp_ratio)
        self.fc1 = nn.Linear(config.embed_dim, inner)
        self.fc2 = nn.Linear(inner, config.embed_dim)
        self.activation = activation(config.hidden_act)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., embed_dim]."""
        out: mx.array = self.fc2(self.activation(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention and a small network, each behind a norm and added to its input."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=_EPS)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=_EPS)
        self.attn = Attention(config)
        self.mlp = Mlp(config)

    def __call__(self, x: mx.array, rotate: Rotate) -> mx.array:
        """Map x [rows, patches, embed_dim]."""
        x = x + self.attn(self.norm1(x), rotate)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """The patches of a group, side by side, to one token of the text's width."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.together = config.spatial_merge_size**2
        width = config.embed_dim * self.together
        self.ln_q = nn.LayerNorm(config.embed_dim, eps=_EPS)
        # A list under `mlp` keeps the checkpoint's numbers: 0 and 2 have weights, 1 is the activation.
        self.mlp = [nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.hidden_size)]

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [rows, patches, embed_dim] to [rows, tokens, hidden_size]."""
        rows, length, width = x.shape
        x = self.ln_q(x).reshape(rows, length // self.together, width * self.together)
        for step in self.mlp:
            x = step(x)
        return x


class VisionTransformer(nn.Module):
    """The whole tower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config)
        self.blocks = [Block(config) for _ in range(config.depth)]
        self.merger = PatchMerger(config)
        self._config = config

    def __call__(self, pixels: mx.array) -> mx.array:
        """Read pictures [rows, height, width, 3] of one size into [rows, tokens, hidden_size]."""
        out: mx.array = self.merger(self.features(pixels))
        return out

    def features(self, pixels: mx.array) -> mx.array:
        """The last block's output [rows, patches, embed_dim], patches in merge order."""
        config = self._config
        height, width = pixels.shape[1] // config.patch_size, pixels.shape[2] // config.patch_size
        size = config.embed_dim // config.num_heads
        rotate = rotation(vision_table(height, width, config.spatial_merge_size, size, config.rope_theta))
        x = self.patch_embed(merge_order(pixels, config.patch_size, config.spatial_merge_size))
        for block in self.blocks:
            x = block(x, rotate)
        return x


def merge_order(pixels: mx.array, patch: int, merge: int) -> mx.array:
    """Pictures [rows, height, width, channels] as [rows, patches, patch, patch, channels], group by group."""
    rows, height, width, channels = pixels.shape
    high, wide = height // (patch * merge), width // (patch * merge)
    blocks = pixels.reshape(rows, high, merge, patch, wide, merge, patch, channels)
    return blocks.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(rows, -1, patch, patch, channels)
