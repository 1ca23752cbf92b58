"""PyTorch's files: the pickle in a zip archive, and the older kind."""

from __future__ import annotations

import io
import zipfile

from scripts.fuzzing.parts import chosen, folder, typed

from ocr_mlx.model.torch_file import read_torch

_VALUES = bytes(range(64))


def one(data: bytes) -> None:
    """The bytes as a file; or as the pickle of a proper archive with one storage."""
    whole, rest = chosen(data, (True, False))
    path = folder() / "x.bin"
    path.write_bytes(rest if whole else _archive(rest))
    with typed():
        for name, tensor in read_torch(path).items():
            assert isinstance(name, str) and tensor.nbytes <= 1_000_000


def _archive(table: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", table)
        archive.writestr("archive/data/0", _VALUES)
    return stream.getvalue()
