"""A folder's tensors, whatever files they are in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import mlx.core as mx

from ocr_mlx.errors import CheckpointIncomplete
from ocr_mlx.model.safetensors_file import TensorHeader, read_header, read_tensors
from ocr_mlx.model.torch_file import open_torch, read_torch
from ocr_mlx.model.weight_files import SAFETENSORS, weight_files, weight_index

_FLOATS: Final = {"F16", "BF16", "F32", "F64"}


def read_weights(folder: Path, floats: mx.Dtype | None = None) -> dict[str, mx.array]:
    """All tensors by name, floating ones as `floats` if given.

    Tensors of safetensors files are read when they are evaluated, so that dropping each source after its use keeps the
    peak low. Raises CheckpointIncomplete for missing or damaged files, ModelError for a file that wants to run code.
    """
    weights: dict[str, mx.array] = {}
    for path in weight_files(folder):
        found = read_tensors(path) if path.suffix == SAFETENSORS else read_torch(path, floats)
        twice = weights.keys() & found.keys()
        if twice:
            raise CheckpointIncomplete(
                f"Tensor {min(twice)} is in two files of {folder.name}.", hint="Remove the files of another version."
            )
        weights |= found
    _check_index(folder, weights)
    if floats is None:
        return weights
    return {name: cast(array, floats) for name, array in weights.items()}


def cast(array: mx.array, floats: mx.Dtype) -> mx.array:
    """The array in another floating type; integers and packed weights stay."""
    return array.astype(floats) if mx.issubdtype(array.dtype, mx.floating) else array


def renamed(tensors: dict[str, mx.array], rename: Callable[[str], str]) -> dict[str, mx.array]:
    """The tensors under their new names. Raises CheckpointIncomplete where two would get the same one."""
    found: dict[str, mx.array] = {}
    for name, array in tensors.items():
        new = rename(name)
        if new in found:
            raise CheckpointIncomplete(
                f"Tensor {name} is there twice, under two names.", hint="Remove the files of another version."
            )
        found[new] = array
    return found


def stored_bytes(folder: Path, float_size: int | None = None, group_size: Callable[[str], int] | None = None) -> int:
    """What the tensors will take in memory, from the files' tables alone; floating ones at `float_size` bytes if given.

    With `group_size` (of the packed layer at a path), packed layers are counted unpacked, at four bytes if not told.
    Raises as `read_weights`.
    """
    total = 0
    for path in weight_files(folder):
        if path.suffix == SAFETENSORS:
            total += _header_bytes(read_header(path), float_size, group_size)
        else:
            for tensor in open_torch(path).tensors.values():
                size = float_size if tensor.type.floating else None
                total += tensor.elements * size if size else tensor.nbytes
    return total


def _header_bytes(
    headers: Mapping[str, TensorHeader], float_size: int | None, group_size: Callable[[str], int] | None
) -> int:
    total = 0
    for name, stored in headers.items():
        size = float_size if stored.dtype in _FLOATS else None
        count = math.prod(stored.shape)
        path, _, part = name.rpartition(".")
        if group_size is not None and part == "scales":
            total += count * group_size(path) * (float_size or 4)
        elif group_size is None or not (stored.dtype == "U32" or (part == "biases" and f"{path}.scales" in headers)):
            total += count * size if size else stored.nbytes
    return total


def _check_index(folder: Path, weights: dict[str, mx.array]) -> None:
    table = weight_index(folder)
    lost = [name for name in table if name not in weights]
    if lost:
        more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise CheckpointIncomplete(
            f"Tensor {lost[0]} should be in {table[lost[0]]} of {folder.name}, but is not there{more}.",
            hint="Download or convert the model again.",
        )
