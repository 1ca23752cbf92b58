"""One safetensors file: the header is checked before anything is allocated, tensors are read when evaluated."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

import mlx.core as mx
import numpy as np

from ocr_mlx.errors import CheckpointIncomplete

_MAX_HEADER: Final = 25_000_000
_MOST_DIMENSIONS: Final = 8
_LONGEST_SIDE: Final = 2**31 - 1
_LENGTH: Final = 8
_NUMPY: Final = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "BF16": "<u2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorHeader:
    """One tensor as the header has it; `start` and `end` are bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.start


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Names and places of all tensors.

    Raises CheckpointIncomplete for a file that is cut off, overlaps itself, or holds types that cannot be read.
    """
    size = path.stat().st_size
    raw, base = _raw_header(path, size)
    remarks = raw.pop("__metadata__", None) or {}
    if not isinstance(remarks, dict) or not all(isinstance(value, str) for value in remarks.values()):
        raise _damaged(path, "its remarks are no texts")
    tensors = {name: _entry(path, name, value, base) for name, value in raw.items()}
    position = base
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start < position:
            raise _damaged(path, f"tensor {name} overlaps another")
        position = tensor.end
    if position > size:
        raise _damaged(path, f"it ends after {size} bytes, but its tensors need {position}")
    for name, tensor in tensors.items():  # longer sides than these can only be those of a tensor without a number
        if any(side > _LONGEST_SIDE for side in tensor.shape):
            raise _damaged(path, f"tensor {name} has no proper shape and place")
    return tensors


def read_tensors(path: Path) -> dict[str, mx.array]:
    """All tensors, read lazily; float64 becomes float32. Raises CheckpointIncomplete as `read_header` does."""
    headers = read_header(path)
    if any(tensor.dtype == "F64" for tensor in headers.values()):  # which MLX does not read
        return {name: _read(path, tensor) for name, tensor in headers.items()}
    try:
        found = mx.load(str(path), format="safetensors")
    except RuntimeError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(path, "it holds no table of tensors")
    return found


def _raw_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The JSON header and where the data begins."""
    with path.open("rb") as file:
        start = file.read(_LENGTH)
        length = struct.unpack("<Q", start)[0] if len(start) == _LENGTH else size
        if length > _MAX_HEADER or _LENGTH + length > size:
            raise _damaged(path, "its header is cut off")
        text = file.read(length)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    return header, _LENGTH + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a name twice: MLX reads the header too, and both must see the same."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _entry(path: Path, name: str, value: Any, base: int) -> TensorHeader:
    if not isinstance(value, dict):
        raise _damaged(path, f"tensor {name} has no description")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or not _possible(shape):
        raise _damaged(path, f"tensor {name} has no proper shape and place")
    if not isinstance(dtype, str) or dtype not in _NUMPY:
        raise CheckpointIncomplete(
            f"Tensor {name} in {path.name} is stored as {dtype}, which cannot be read here.",
            hint="Take a float32, float16 or bfloat16 version of the model.",
        )
    if offsets[1] - offsets[0] != math.prod(shape) * np.dtype(_NUMPY[dtype]).itemsize:
        raise _damaged(path, f"tensor {name} has {offsets[1] - offsets[0]} bytes, which is not {dtype} {shape}")
    return TensorHeader(dtype=dtype, shape=tuple(shape), start=base + offsets[0], end=base + offsets[1])


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _possible(shape: list[int]) -> bool:
    return len(shape) <= _MOST_DIMENSIONS and all(n < 2**63 for n in shape)


def _read(path: Path, tensor: TensorHeader) -> mx.array:
    values = np.fromfile(path, dtype=_NUMPY[tensor.dtype], count=math.prod(tensor.shape), offset=tensor.start)
    if tensor.dtype == "F64":
        values = values.astype(np.float32)
    array = mx.array(values.reshape(tensor.shape))
    return array.view(mx.bfloat16) if tensor.dtype == "BF16" else array


def _damaged(path: Path, reason: str) -> CheckpointIncomplete:
    return CheckpointIncomplete(f"{path.name} is damaged: {reason}.", hint="Download or convert the model again.")
