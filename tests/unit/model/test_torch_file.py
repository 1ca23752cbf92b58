from __future__ import annotations

import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.errors import CheckpointIncomplete, ModelError
from ocr_mlx.model.torch_file import open_torch, read_torch

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("file", ["zip.bin", "legacy.bin"])
def test_everything_that_torch_wrote_is_read_bit_for_bit(file: str) -> None:
    expected = mx.load(str(GOLDEN / "tensors.safetensors"))
    found = read_torch(GOLDEN / file)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape), name
        assert mx.array_equal(array, expected[name]), name


def test_a_state_dict_with_its_metadata_and_a_training_checkpoint_hold_the_same() -> None:
    module, training = read_torch(GOLDEN / "module.bin"), read_torch(GOLDEN / "training.bin")
    assert list(module) == list(training) == ["weight", "bias"]
    assert mx.array_equal(module["weight"], training["weight"])


def test_floats_are_converted_as_they_are_read() -> None:
    found = read_torch(GOLDEN / "zip.bin", mx.float16)
    assert found["base"].dtype == found["bfloat"].dtype == found["double"].dtype == mx.float16
    assert found["long"].dtype == mx.int64


@pytest.mark.parametrize("file", ["sparse.bin", "float8.bin"])
def test_exotic_tensors_are_refused_by_name(file: str) -> None:
    with pytest.raises(ModelError, match=r"kind of tensor that cannot be read here \(torch"):
        read_torch(GOLDEN / file)


# --- files that nobody's torch wrote ---------------------------------------------------------------------------------


class _Named:
    """Pickles as a bare global name."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes names of modules that are not installed, and storages as torch does."""

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, _Named):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        else:
            super().save(value, save_persistent_id)

    def persistent_id(self, value: Any) -> Any:
        return value.pid if isinstance(value, _Storage) else None


class _Storage:
    def __init__(self, *pid: Any) -> None:
        self.pid = pid


class _Call:
    def __init__(self, function: _Named, *values: Any) -> None:
        self.function, self.values = function, values

    def __reduce__(self) -> Any:
        return _Function(self.function), self.values


class _Function:
    """Stands where pickle insists on something callable."""

    def __init__(self, named: _Named) -> None:
        self.named = named

    def __call__(self) -> None: ...

    def __reduce__(self) -> str:
        raise AssertionError


def _save_function(pickler: _Pickler, function: _Function) -> None:
    pickler.save(function.named)


_Pickler.dispatch = {**pickle._Pickler.dispatch, _Function: _save_function}  # type: ignore[attr-defined]


def write_zip(path: Path, value: Any, storages: dict[str, bytes] | None = None, **options: Any) -> Path:
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump(value)
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def tensor(key: Any = "0", offset: Any = 0, shape: Any = (2, 3), strides: Any = (3, 1), kind: str = "Float") -> _Call:
    storage = _Storage("storage", _Named("torch", f"{kind}Storage"), key, "cpu", 6)
    rebuild = _Named("torch._utils", "_rebuild_tensor_v2")
    return _Call(rebuild, storage, offset, shape, strides, False, OrderedDict())


DATA = {"0": np.arange(6, dtype="<f4").tobytes()}


def test_the_writer_of_these_tests_makes_files_that_can_be_read(tmp_path: Path) -> None:
    found = read_torch(write_zip(tmp_path / "x.bin", {"a": tensor()}, DATA))
    np.testing.assert_array_equal(found["a"], np.arange(6, dtype=np.float32).reshape(2, 3))


def test_equal_views_of_one_storage_are_one_array(tmp_path: Path) -> None:
    found = read_torch(
        write_zip(
            tmp_path / "x.bin", {"a": tensor(), "b": tensor(), "c": tensor(offset=3, shape=(3,), strides=(1,))}, DATA
        )
    )
    assert found["a"] is found["b"]
    assert found["c"].tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    "name",
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections", "namedtuple"),
        ("ocr_mlx.model.torch_file", "os"),
    ],
)
def test_a_file_that_wants_to_run_code_is_named_and_runs_nothing(tmp_path: Path, name: tuple[str, str]) -> None:
    trace = tmp_path / "ran"
    path = write_zip(tmp_path / "x.bin", {"a": tensor(), "b": _Call(_Named(*name), f"touch {trace}")}, DATA)
    with pytest.raises(ModelError, match=rf"wants to run code \({name[0]}\.{name[1]}\)"):
        read_torch(path)
    assert not trace.exists()


def test_a_plain_pickle_with_a_payload_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {trace}",)

    (tmp_path / "x.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ModelError, match="wants to run code"):
        read_torch(tmp_path / "x.bin")
    assert not trace.exists()


def test_a_pickle_cannot_change_what_a_permitted_name_means(tmp_path: Path) -> None:
    """The opcode BUILD sets attributes, by a dict or a slot state, or calls `__setstate__`; nothing here gives way."""
    for name in (b"torch._utils\n_rebuild_tensor_v2", b"torch\nFloatStorage", b"collections\nOrderedDict"):
        for attribute in (b"make", b"code", b"items"):
            state = b"}X" + struct.pack("<I", len(attribute)) + attribute + b"K\x01s"
            for build in (state, b"N" + state + b"\x86", b"](K\x01K\x02e"):
                with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
                    archive.writestr(
                        "archive/data.pkl", b"\x80\x02}X\x01\x00\x00\x00ac" + name + b"\n" + build + b"bs."
                    )
                with pytest.raises(CheckpointIncomplete):
                    read_torch(tmp_path / "x.bin")
    assert list(read_torch(GOLDEN / "module.bin")) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (tensor(key="7"), "bytes of tensor a are missing"),
        (tensor(offset=1), "reaches beyond"),
        (tensor(offset=-1), "misdescribed"),
        (tensor(strides=(-3, 1)), "misdescribed"),
        (tensor(shape=(2.0, 3)), "misdescribed"),
        (tensor(shape=(2, 3, 1)), "misdescribed"),
        (tensor(shape="ab"), "misdescribed"),
        (tensor(shape=(10**12,), strides=(0,)), "reaches beyond"),
        (tensor(shape=(2**62, 2**62), strides=(1, 1)), "reaches beyond"),
        (tensor(key=3), "no PyTorch file"),
        (tensor(kind="Double"), "reaches beyond"),
        (_Call(_Named("torch._utils", "_rebuild_tensor_v2"), 1, 2, 3, 4), "no PyTorch file"),
    ],
)
def test_a_view_that_lies_is_refused(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(CheckpointIncomplete, match=message):
        read_torch(write_zip(tmp_path / "x.bin", {"a": bad}, DATA))


def test_a_table_that_is_none_a_big_endian_file_and_compressed_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointIncomplete, match="holds no table"):
        read_torch(write_zip(tmp_path / "list.bin", [1, 2]))
    with pytest.raises(CheckpointIncomplete, match="no PyTorch file"):
        read_torch(write_zip(tmp_path / "packed.bin", {"a": tensor()}, DATA, compression=zipfile.ZIP_DEFLATED))
    path = write_zip(tmp_path / "big.bin", {"a": tensor()}, DATA)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    with pytest.raises(CheckpointIncomplete, match="big-endian"):
        read_torch(path)


@pytest.mark.parametrize("file", ["zip.bin", "legacy.bin"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, file: str) -> None:
    whole = (GOLDEN / file).read_bytes()
    for size in (0, 1, 10, 100, len(whole) // 2, len(whole) - 4):
        (tmp_path / "cut.bin").write_bytes(whole[:size])
        with pytest.raises(CheckpointIncomplete):
            read_torch(tmp_path / "cut.bin")


def test_any_flipped_byte_of_the_pickle_gives_a_result_or_a_model_error(tmp_path: Path) -> None:
    whole = bytearray((GOLDEN / "legacy.bin").read_bytes())
    for position in range(0, 1200, 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x15
        (tmp_path / "x.bin").write_bytes(damaged)
        try:
            open_torch(tmp_path / "x.bin")
        except ModelError:
            continue


def test_a_storage_count_that_is_negative_is_refused(tmp_path: Path) -> None:
    whole = (GOLDEN / "legacy.bin").read_bytes()
    at = whole.rindex(struct.pack("<q", 24))
    (tmp_path / "x.bin").write_bytes(whole[:at] + struct.pack("<q", -24) + whole[at + 8 :])
    with pytest.raises(CheckpointIncomplete):
        read_torch(tmp_path / "x.bin")


LONG = "".join(("]q\0(", "K\0" * 200_000, "e0"))
"""A list of so many numbers, which a pickle may name again and again."""


def _repeated(what: str, *, times: int = 3000) -> bytes:
    return ("\x80\x02" + LONG + "](" + what * times + "e.").encode("latin-1")


@pytest.mark.parametrize(
    "table",
    [
        _repeated("ctorch\nSize\nh\0\x85R"),
        _repeated("ctorch._utils\n_rebuild_tensor_v2\n(Nh\0h\0h\0tR"),
        _repeated("ccollections\nOrderedDict\n](h\0h\0h\0e\x85R"),
        _repeated("(h\0itorch\nSize\n"),
        b"\x80\x02}q\0\x8b"
        + struct.pack("<i", 4_000_000)
        + b"\x7f" * 4_000_000
        + b"q\x010"
        + b"h\0h\x01Ns0" * 100_000
        + b"h\0.",
    ],
    ids=["sizes", "tensors", "ordered", "old style", "a long number as name"],
)
def test_a_short_pickle_that_copies_one_list_without_end_is_refused_at_once(tmp_path: Path, table: bytes) -> None:
    path, began = tmp_path / "x.bin", time.monotonic()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", table)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointIncomplete):
            open_torch(path)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 30


def test_attributes_that_a_pickle_sets_are_not_copied(tmp_path: Path) -> None:
    state = b"}q\0(" + b"".join(b"X" + struct.pack("<I", 6) + b"%06d" % n + b"N" for n in range(50_000)) + b"u0"
    table = b"\x80\x02" + state + b"](" + b"ccollections\nOrderedDict\n)Rh\0b" * 200 + b"e."
    tracemalloc.start()
    try:
        with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
            archive.writestr("archive/data.pkl", table)
        with pytest.raises(CheckpointIncomplete):
            open_torch(tmp_path / "x.bin")
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()
