"""Tensors of other layouts in the graph's: split and single weights become one."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Final

import mlx.core as mx

Weights = dict[str, mx.array]
_BUFFERS: Final = re.compile(r"\.(position_ids|inv_freq)$|^model\.vision_model\.embeddings\.patch_embedding\.")
_EXPERT: Final = re.compile(r"^(.+\.mlp)\.experts\.(\d+)\.((?:gate|up|down)_proj\.weight)$")
_GATE_UP: Final = re.compile(r"^(.+\.mlp)\.experts\.gate_up_proj$")
_QUERIES: Final = re.compile(r"^(model\.vision_model\..+\.self_attn)\.q_proj\.(weight|bias)$")


def without_buffers(weights: Weights) -> Weights:
    """Less what is computed, and CLIP's patch convolution, which is stored and never used."""
    return {name: array for name, array in weights.items() if not _BUFFERS.search(name)}


def join_queries(weights: Weights) -> Weights:
    """CLIP's queries, keys and values in one layer."""
    joined = dict(weights)
    for name in weights:
        if found := _QUERIES.match(name):
            layer, kind = found.groups()
            parts = [f"{layer}.{part}_proj.{kind}" for part in "qkv"]
            if all(part in joined for part in parts):
                joined[f"{layer}.qkv_proj.{kind}"] = mx.concatenate([joined.pop(part) for part in parts])
    return joined


def stack_experts(weights: Weights, count: int) -> Weights:
    """The `count` experts of a layer in one tensor per projection; sets that are not whole stay for the error to name."""
    stacked = dict(weights)
    found: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for name in weights:
        if single := _EXPERT.match(name):
            found[f"{single[1]}.switch_mlp.{single[3]}"][int(single[2])] = name
        elif both := _GATE_UP.match(name):
            gate, up = mx.split(stacked.pop(name), 2, axis=1)
            stacked |= {f"{both[1]}.switch_mlp.gate_proj.weight": gate, f"{both[1]}.switch_mlp.up_proj.weight": up}
    for name, singles in found.items():
        if sorted(singles) == list(range(count)):
            stacked[name] = mx.stack([stacked.pop(singles[index]) for index in range(count)])
    return stacked
