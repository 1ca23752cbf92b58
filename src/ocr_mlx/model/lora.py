"""Merging a LoRA adapter into the tensors of its base, tensor by tensor as they are read.

PEFT names its tensors after the modules of the library version that trained them (`base_model.model.visual.blocks.0...`
one year, `base_model.model.model.visual...` the next). Both sides are therefore compared under the family's own names, and
an adapter tensor that finds no partner is an error: the alternative is a model that silently was never adapted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import mlx.core as mx

from ocr_mlx.errors import CheckpointIncomplete, WeightMismatch
from ocr_mlx.model.adapter import Adapter, weight_file
from ocr_mlx.model.safetensors_file import read_tensors
from ocr_mlx.model.torch_file import read_torch
from ocr_mlx.model.weight_files import SAFETENSORS

_KEY: Final = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
Pair = tuple[mx.array, mx.array]
"""A [rank, inputs] and B [outputs, rank]."""


def merge(
    weights: Mapping[str, mx.array], adapter: Adapter, rename: Callable[[str], str], floats: mx.Dtype | None = None
) -> dict[str, mx.array]:
    """The base's tensors, under the graph's names, with the adapter's added; nothing is computed until evaluated.

    The sum is made in float32; what is merged becomes `floats`, or stays in its stored type. Raises WeightMismatch that
    names every adapter tensor without a partner or of a wrong shape, CheckpointIncomplete for an adapter without any.
    """
    pairs = read_pairs(adapter, rename)
    lost = sorted(pairs.keys() - weights.keys())
    if lost:
        raise WeightMismatch(extra=[f"{name} (of the adapter {adapter.folder.name})" for name in lost])
    _check_shapes(weights, pairs, adapter)
    merged = dict(weights)
    for name, (down, up) in pairs.items():
        base = weights[name]
        change = up.astype(mx.float32) @ down.astype(mx.float32)
        merged[name] = (base.astype(mx.float32) + adapter.scale * change).astype(floats or base.dtype)
    return merged


def read_pairs(adapter: Adapter, rename: Callable[[str], str]) -> dict[str, Pair]:
    """The adapter's matrices by the graph's name of the weight that they change. Errors as `merge`."""
    path = weight_file(adapter.folder)
    tensors = read_tensors(path) if path.suffix == SAFETENSORS else read_torch(path)
    found = {name: _KEY.fullmatch(name) for name in tensors}
    strange = sorted(name for name, match in found.items() if match is None)
    if strange:
        raise WeightMismatch(extra=strange)
    sides: dict[str, dict[str, mx.array]] = {}
    for name, match in found.items():
        if match is not None:
            own = sides.setdefault(rename(f"{match['path']}.weight"), {})
            if match["side"] in own:
                raise CheckpointIncomplete(
                    f"The adapter {adapter.folder.name} has {name} twice, under two names.",
                    hint="Download the adapter again.",
                )
            own[match["side"]] = tensors[name]
    halves = sorted(f"the other half of {name}" for name, own in sides.items() if len(own) != 2)
    if halves:
        raise WeightMismatch(missing=halves)
    if not sides:
        raise CheckpointIncomplete(f"The adapter {adapter.folder.name} is empty.", hint="Download the adapter again.")
    return {name: (own["A"], own["B"]) for name, own in sides.items()}


def _check_shapes(weights: Mapping[str, mx.array], pairs: Mapping[str, Pair], adapter: Adapter) -> None:
    wrong = {}
    for name, (down, up) in pairs.items():
        shape = weights[name].shape
        fits = len(shape) == down.ndim == up.ndim == 2 and (up.shape[0], down.shape[1]) == shape
        if not fits or down.shape[0] != adapter.rank or up.shape[1] != adapter.rank:
            wrong[f"{name} by the adapter's {down.shape} and {up.shape} of rank {adapter.rank}"] = (
                shape,
                (*up.shape[:1], *down.shape[1:]),
            )
    if wrong:
        raise WeightMismatch(shape=wrong)
