"""One PyTorch `.bin` file, read without torch and without running what it may carry.

Such a file is a pickle beside raw bytes, and a pickle is a program. Here it may name nothing but the few constructors
of tensors, each of which makes a description; any other name ends the reading.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import mlx.core as mx
import numpy as np

from ocr_mlx.errors import CheckpointIncomplete, ModelError

_MAX_PICKLE: Final = 8_000_000
"""Bytes of a table of tensors; ten thousand tensors take two million."""
_MOST_DIMENSIONS: Final = 8
_MOST_COPIED: Final = 1_000_000
"""Entries of ordered tables that are made from lists: a list may be named again and again."""
_MOST_VIEWS: Final = 4
"""So many times its own size a file's tensors may have together: they may share their bytes, but not without end."""
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER: Final = struct.Struct("<26xHH")
_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined,unused-ignore]
_NOT_IN_TABLES: Final = frozenset(
    {
        *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.EXT1, pickle.EXT2, pickle.EXT4),
        *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    }
)
"""Sets, other programs' short names, and bytes from outside."""
_BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Type(NamedTuple):
    """An element type: numpy's code for its bytes, and whether they are bfloat16."""

    code: str
    bfloat16: bool = False

    @property
    def size(self) -> int:
        return np.dtype(self.code).itemsize

    @property
    def floating(self) -> bool:
        return self.bfloat16 or "f" in self.code


_TYPES: Final = {
    "Float": _Type("<f4"),
    "Double": _Type("<f8"),
    "Half": _Type("<f2"),
    "BFloat16": _Type("<u2", bfloat16=True),
    "Long": _Type("<i8"),
    "Int": _Type("<i4"),
    "Short": _Type("<i2"),
    "Char": _Type("i1"),
    "Byte": _Type("u1"),
    "Bool": _Type("?"),
}


class _Storage(NamedTuple):
    """A run of bytes that tensors share, known by its key."""

    key: str
    type: _Type


class StoredTensor(NamedTuple):
    """A tensor as a view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def type(self) -> _Type:
        """The element type."""
        return self.storage.type

    @property
    def elements(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes as they are stored."""
        return self.elements * self.type.size


class _Constructor(NamedTuple):
    """What a permitted name stands for. A tuple, because a pickle may set the attributes of whatever has some."""

    make: Callable[..., Any]

    def __call__(self, *values: Any) -> Any:
        return self.make(*values)


def _tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    return StoredTensor(storage, offset, _sides(shape), _sides(strides))


def _sides(numbers: Any = ()) -> tuple[Any, ...]:
    """Few enough to be copied: a pickle may ask for a million copies of one list."""
    if len(numbers) > _MOST_DIMENSIONS:
        raise pickle.UnpicklingError("a tensor has too many sides")
    return tuple(numbers)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _check_keys(keys: Iterable[Any]) -> None:
    """Names and small numbers only: to look up a tuple of tuples of tuples can take longer than the world has, and a
    number of a million digits is counted through each time."""
    if not all(isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 64) for key in keys):
        raise pickle.UnpicklingError("an entry's name is no text")


_ORDERED: Final = ("collections", "OrderedDict")
_ALLOWED: Final[Mapping[tuple[str, str], Any]] = {
    ("torch", "Size"): _Constructor(_sides),
    ("torch._utils", "_rebuild_tensor"): _Constructor(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Constructor(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Constructor(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Constructor(_parameter),
    **{("torch", f"{name}Storage"): type_ for name, type_ in _TYPES.items()},
}


class _Bounded:
    """What is left of a file, but for no more bytes than a table of tensors has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _MAX_PICKLE

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(max(0, min(size, self._left))))

    def readline(self) -> bytes:
        line = self._counted(self._file.readline(self._left))
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


class _TensorPickle(_PythonUnpickler):  # type: ignore[misc]
    """Unpickles descriptions of tensors; raises ModelError for any name outside _ALLOWED.

    The standard library's reader in Python: the one in C makes its memo as large as a file says, which can be all memory.
    """

    dispatch = {  # noqa: RUF012 - the base class's own name for it
        code: step for code, step in _PythonUnpickler.dispatch.items() if bytes([code]) not in _NOT_IN_TABLES
    }

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(_Bounded(file))
        self._path = path
        self._copied = 0

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_build(self) -> None:
        """Only tables have attributes, which are no weights; copies of them could fill all memory."""
        if not isinstance(self.stack[-2], OrderedDict):
            raise pickle.UnpicklingError("only tables have attributes")
        self.stack.pop()

    def _ordered(self, items: Any = ()) -> OrderedDict[Any, Any]:
        made = OrderedDict[Any, Any]()
        for key, value in items:
            self._copied += 1
            if self._copied > _MOST_COPIED:
                raise pickle.UnpicklingError("too many entries are copied")
            _check_keys([key])
            made[key] = value
        return made

    dispatch |= {
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _ORDERED:
            return _Constructor(self._ordered)
        found = _ALLOWED.get((module, name))
        if found is None:
            foreign = module.split(".")[0] != "torch"
            what = "wants to run code" if foreign else "holds a kind of tensor that cannot be read here"
            raise ModelError(
                f"{self._path.name} {what} ({module}.{name}), so it was not read.",
                hint="Take the model's safetensors files, or another source.",
            )
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        kind, type_, key = pid[:3]
        if kind != "storage" or not isinstance(type_, _Type) or not isinstance(key, str):
            raise pickle.UnpicklingError("a storage is misdescribed")
        return _Storage(key, type_)


@dataclass(frozen=True, slots=True)
class TorchFile:
    """The tensors of one file, and for each storage where its bytes are: (first byte, byte count)."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    places: Mapping[str, tuple[int, int]]


def open_torch(path: Path) -> TorchFile:
    """Read the file's table of tensors, zip-based or of the older kind; no tensor is read.

    Raises CheckpointIncomplete for a damaged file, ModelError for one that wants to run code.
    """
    try:
        opened = _open_zip(path) if zipfile.is_zipfile(path) else _open_legacy(path)
    except (zipfile.BadZipFile, struct.error, NotImplementedError, OSError, *_BROKEN) as error:
        raise _damaged(path, f"it is no PyTorch file of tensors ({type(error).__name__})") from error
    for name, tensor in opened.tensors.items():
        _check(opened, name, tensor)
    if sum(tensor.nbytes for tensor in set(opened.tensors.values())) > _MOST_VIEWS * path.stat().st_size:
        raise _damaged(path, "its tensors are far larger than the file")
    return opened


def read_torch(path: Path, floats: mx.Dtype | None = None) -> dict[str, mx.array]:
    """All tensors, evaluated, float64 as float32; floating ones as `floats` if given.

    Equal views of the same bytes become one array. Raises as `open_torch`.
    """
    opened = open_torch(path)
    known: dict[StoredTensor, mx.array] = {}
    for tensor in sorted(set(opened.tensors.values()), key=lambda tensor: tensor.nbytes, reverse=True):
        known[tensor] = _read(opened, tensor, floats)  # largest first: two copies of it, while there is little else
    return {name: known[tensor] for name, tensor in opened.tensors.items()}


def _open_zip(path: Path) -> TorchFile:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        pickles = [info for info in archive.infolist() if info.filename.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE or pickles[0].compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile("no table of tensors")
        top = pickles[0].filename.split("/")[0]
        if _order(archive, f"{top}/byteorder") == b"big":
            raise _damaged(path, "it was written on a big-endian machine, which is not supported")
        tensors = _TensorPickle(io.BytesIO(archive.read(pickles[0])), path).load()
        data = [info for info in archive.infolist() if info.filename.startswith(f"{top}/data/")]
        places = {info.filename.split("/", 2)[2]: _place(file, info) for info in data}
    return TorchFile(path, _state_dict(path, tensors), places)


def _order(archive: zipfile.ZipFile, name: str) -> bytes:
    if name not in archive.namelist() or archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        return b""
    with archive.open(name) as file:
        return file.read(len(b"little")).strip()


def _place(file: IO[bytes], info: zipfile.ZipInfo) -> tuple[int, int]:
    if info.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile("compressed tensors")
    file.seek(info.header_offset)
    name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + name + extra, info.file_size


def _open_legacy(path: Path) -> TorchFile:
    """Before 2020: pickles one behind the other (magic, protocol, system, tensors, keys), then the storages' bytes."""
    with path.open("rb") as file:
        if _TensorPickle(file, path).load() != _LEGACY_MAGIC:
            raise pickle.UnpicklingError("no PyTorch file")
        _TensorPickle(file, path).load()
        if not _TensorPickle(file, path).load().get("little_endian", True):
            raise _damaged(path, "it was written on a big-endian machine, which is not supported")
        tensors = _state_dict(path, _TensorPickle(file, path).load())
        sizes = {tensor.storage.key: tensor.storage.type.size for tensor in tensors.values()}
        places = {}
        for key in _TensorPickle(file, path).load():
            _check_keys([key])
            count = struct.unpack("<q", file.read(8))[0]
            places[key] = (file.tell(), count * sizes.get(key, 1))
            file.seek(count * sizes.get(key, 1), io.SEEK_CUR)
    return TorchFile(path, tensors, places)


def _state_dict(path: Path, found: Any) -> dict[str, StoredTensor]:
    """The named tensors; a training checkpoint has them under `state_dict`. Other entries are no weights."""
    if isinstance(found, dict) and isinstance(inner := dict.get(found, "state_dict"), dict):
        found = inner
    if not isinstance(found, dict):
        raise _damaged(path, "it holds no table of tensors")
    items = dict.items(found)
    return {name: value for name, value in items if isinstance(name, str) and isinstance(value, StoredTensor)}


def _check(opened: TorchFile, name: str, tensor: StoredTensor) -> None:
    """A view must stay inside its storage, and the storage inside the file."""
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    sound = all(type(n) is int and 0 <= n < 2**63 for n in numbers) and len(tensor.shape) == len(tensor.strides)
    if not sound or len(tensor.shape) > _MOST_DIMENSIONS or not isinstance(tensor.storage, _Storage):
        raise _damaged(opened.path, f"tensor {name} is misdescribed")
    start, nbytes = opened.places.get(tensor.storage.key, (0, -1))
    if nbytes < 0 or start + nbytes > opened.path.stat().st_size:
        raise _damaged(opened.path, f"the bytes of tensor {name} are missing")
    reach = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)) + 1
    if tensor.elements and (reach * tensor.type.size > nbytes or tensor.nbytes > nbytes):
        raise _damaged(opened.path, f"tensor {name} reaches beyond its bytes")


def _read(opened: TorchFile, tensor: StoredTensor, floats: mx.Dtype | None) -> mx.array:
    start = opened.places[tensor.storage.key][0] + tensor.offset * tensor.type.size
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)) + 1 if tensor.elements else 0
    if reach:
        flat: Any = np.memmap(opened.path, dtype=tensor.type.code, mode="r", offset=start, shape=(reach,))
    else:
        flat = np.zeros(0, dtype=tensor.type.code)
    strides = tuple(s * tensor.type.size for s in tensor.strides)
    values = np.ascontiguousarray(np.lib.stride_tricks.as_strided(np.asarray(flat), tensor.shape, strides))
    values = values.reshape(tensor.shape)  # ascontiguousarray makes scalars vectors
    array = mx.array(values.astype(np.float32) if tensor.type.code == "<f8" else values)
    array = array.view(mx.bfloat16) if tensor.type.bfloat16 else array
    if floats is not None and mx.issubdtype(array.dtype, mx.floating):
        array = array.astype(floats)
    mx.eval(array)
    return array


def _damaged(path: Path, reason: str) -> CheckpointIncomplete:
    return CheckpointIncomplete(f"{path.name} is damaged: {reason}.", hint="Download the model again.")
