"""Quantized layers: which ones there are or shall be, packing and unpacking their weights.

A packed layer at `path` has `path.weight` (uint32), `path.scales` and, in affine mode, `path.biases`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import mlx.core as mx
from mlx import nn

from ocr_mlx.domain import Quantization
from ocr_mlx.errors import CheckpointIncomplete, ModelError

BITS: Final = (2, 3, 4, 5, 6, 8)
GROUP_SIZES: Final = (32, 64, 128)
_AFFINE: Final = "affine"
_WORD: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How one layer is packed; the names are those of `mx.quantize`."""

    group_size: int
    bits: int
    mode: str = _AFFINE


Packings = Mapping[str, Packing]
"""Module path -> its packing."""
Recipe = Callable[[str, bool], bool | Mapping[str, int]]


def plan(graph: nn.Module, recipe: Recipe, quantization: Quantization, mixed: bool = False) -> dict[str, Packing]:
    """Which layers of a float graph to pack, and how: those of the recipe whose rows are whole groups.

    Raises ModelError for bits or group sizes that MLX has not.
    """
    chosen: dict[str, Packing] = {}
    for path, module in graph.named_modules():
        if not hasattr(module, "to_quantized") or "weight" not in module:
            continue
        answer = recipe(path, mixed)
        if answer is False:
            continue
        given: dict[str, Any] = dict(answer) if isinstance(answer, Mapping) else {}
        packing = Packing(**({"bits": quantization.bits, "group_size": quantization.group_size} | given))
        _check(packing)
        if module["weight"].shape[-1] % packing.group_size == 0:
            chosen[path] = packing
    return chosen


def recorded(graph: nn.Module, weights: Mapping[str, mx.array], record: Mapping[str, Any] | None) -> dict[str, Packing]:
    """Which layers the tensors have packed already. Their shapes say how, config.json's record the mode.

    Raises CheckpointIncomplete where the record is missing or the shapes contradict the graph.
    """
    modules = dict(graph.named_modules())
    found: dict[str, Packing] = {}
    for name, scales in weights.items():
        path = name.removesuffix(".scales")
        module = modules.get(path)
        if path == name or module is None or not hasattr(module, "to_quantized") or f"{path}.weight" not in weights:
            continue
        if record is None:
            raise CheckpointIncomplete(
                f"Layer {path} is quantized, but config.json has no `quantization`.",
                hint="Take the config.json that came with these weights.",
            )
        own = record.get(path)
        mode = own.get("mode", _AFFINE) if isinstance(own, Mapping) else record.get("mode", _AFFINE)
        found[path] = _measured(path, module["weight"].shape[-1], weights[f"{path}.weight"], scales, mode)
    return found


def make_room(graph: nn.Module, packings: Packings) -> None:
    """Replace the graph's layers by quantized ones of the same shapes; their values are never computed."""
    if not packings:
        return
    with _packed_well(", ".join(list(packings)[:1])):
        nn.quantize(graph, class_predicate=lambda path, _: asdict(packings[path]) if path in packings else False)


def pack(weights: dict[str, mx.array], packings: Packings) -> dict[str, mx.array]:
    """The tensors with the named layers packed; nothing is computed until it is evaluated.

    Raises CheckpointIncomplete where a layer has no weight.
    """
    packed = dict(weights)
    for path, packing in packings.items():
        weight = packed.get(f"{path}.weight")
        if weight is None:
            raise CheckpointIncomplete(f"Layer {path} has no weight to quantize.", hint="Download the model again.")
        values = mx.quantize(weight, **asdict(packing))
        packed |= {f"{path}.{name}": value for name, value in zip(("weight", "scales", "biases"), values, strict=False)}
    return packed


def unpack(weights: dict[str, mx.array], packings: Packings) -> dict[str, mx.array]:
    """The tensors with the named layers as plain float32 again; nothing is computed until it is evaluated."""
    plain = dict(weights)
    for path, packing in packings.items():
        weight, scales = plain.pop(f"{path}.weight"), plain.pop(f"{path}.scales")
        biases = plain.pop(f"{path}.biases", None)
        if packing.mode == _AFFINE and biases is None:
            raise CheckpointIncomplete(f"Layer {path} is quantized without biases.", hint="Download the model again.")
        if packing.mode == _AFFINE and biases is not None:
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        with _packed_well(path):
            plain[f"{path}.weight"] = mx.dequantize(weight, scales, biases, **asdict(packing), dtype=mx.float32)
    return plain


@contextmanager
def _packed_well(path: str) -> Iterator[None]:
    """The one door for packings that MLX has not, and for scales that are not those of the weight."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointIncomplete(
            f"The packed weight of layer {path} cannot be unpacked.", hint="Download the model again."
        ) from error


def _check(packing: Packing) -> None:
    if packing.bits not in BITS:
        raise ModelError(f"{packing.bits} bits are not possible.", hint=f"Choose one of {_listed(BITS)}.")
    if packing.group_size not in GROUP_SIZES:
        raise ModelError(
            f"A group size of {packing.group_size} is not possible.", hint=f"Choose one of {_listed(GROUP_SIZES)}."
        )


def _measured(path: str, width: int, weight: mx.array, scales: mx.array, mode: str) -> Packing:
    """A row of `width` numbers takes `bits / 32` words each, and has one scale per group."""
    words, groups = (weight.shape[-1], scales.shape[-1]) if weight.ndim and scales.ndim else (0, 0)
    whole = groups > 0 and width % groups == 0 and words * _WORD % width == 0
    if not whole or weight.dtype != mx.uint32:
        raise CheckpointIncomplete(
            f"The packed weight of layer {path} does not fit its {width} inputs.", hint="Download the model again."
        )
    return Packing(group_size=width // groups, bits=words * _WORD // width, mode=mode)


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
