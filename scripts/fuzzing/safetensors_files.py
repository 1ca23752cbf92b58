"""Safetensors files: the header, and the tensors behind it."""

from __future__ import annotations

import struct

import mlx.core as mx
from scripts.fuzzing.parts import chosen, folder, typed

from ocr_mlx.model.safetensors_file import read_header, read_tensors

_VALUES = bytes(range(64))


def one(data: bytes) -> None:
    """The bytes as a file; or as a header of the right length before some values."""
    whole, rest = chosen(data, (True, False))
    path = folder() / "x.safetensors"
    path.write_bytes(rest if whole else struct.pack("<Q", len(rest)) + rest + _VALUES)
    with typed():
        headers = read_header(path)
        tensors = read_tensors(path)
        assert headers.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert tensor.shape == headers[name].shape
            mx.eval(tensor)
