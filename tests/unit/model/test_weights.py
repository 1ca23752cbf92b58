from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.errors import CheckpointIncomplete
from ocr_mlx.model.safetensors_file import read_header, read_tensors
from ocr_mlx.model.weight_files import choose_weights
from ocr_mlx.model.weights import read_weights, stored_bytes

GOLDEN = Path(__file__).parent / "golden"
VALUES = np.arange(6, dtype="<f4")


def write(path: Path, header: Any, data: bytes = VALUES.tobytes(), pad: int = 0) -> Path:
    text = (header if isinstance(header, bytes) else json.dumps(header).encode()) + b" " * pad
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(start: int = 0, end: int = 24, shape: Any = (6,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("pad", range(9))
def test_data_may_begin_at_any_byte(tmp_path: Path, pad: int) -> None:
    found = read_tensors(write(tmp_path / "x.safetensors", {"a": entry()}, pad=pad))
    assert found["a"].tolist() == VALUES.tolist()


def test_a_tensor_between_others_may_be_unaligned(tmp_path: Path) -> None:
    header = {"b": entry(0, 1, (1,), "U8"), "a": entry(1, 25), "__metadata__": {"format": "pt"}}
    found = read_tensors(write(tmp_path / "x.safetensors", header, b"\7" + VALUES.tobytes()))
    assert (found["a"].tolist(), found["b"].tolist()) == (VALUES.tolist(), [7])


def test_float64_becomes_float32_and_its_neighbours_stay(tmp_path: Path) -> None:
    data = np.array([1.5, -2], "<f8").tobytes() + np.array([0x3FC0], "<u2").tobytes() + np.array([3], "<i8").tobytes()
    header = {"a": entry(0, 16, (2,), "F64"), "b": entry(16, 18, (1, 1), "BF16"), "c": entry(18, 26, (), "I64")}
    found = read_tensors(write(tmp_path / "x.safetensors", header, data))
    assert (found["a"].dtype, found["a"].tolist()) == (mx.float32, [1.5, -2])
    assert (found["b"].dtype, found["b"].tolist()) == (mx.bfloat16, [[1.5]])
    assert (found["c"].dtype, found["c"].item()) == (mx.int64, 3)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(0, 28, (7,))}, r"ends after \d+ bytes"),
        ({"a": entry(0, 24), "b": entry(20, 24, (1,))}, "tensor b overlaps"),
        ({"a": entry(0, 24), "b": entry(0, 24)}, "overlaps another"),
        ({"a": entry(0, 24, (2**40, 2**40))}, "is not F32"),
        ({"a": entry(0, 4 * 10**15, (10**15,))}, "it ends after"),
        ({"a": entry(0, 24, (-6, -1))}, "no proper shape"),
        ({"a": entry(0, 24, (6.0,))}, "no proper shape"),
        ({"a": entry(0, 24, (True, 6))}, "no proper shape"),
        ({"a": entry(0, 24, "6")}, "no proper shape"),
        ({"a": entry(24, 0)}, "which is not F32"),
        ({"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 12, 24]}}, "no proper shape"),
        ({"a": {"dtype": "F32", "shape": [6]}}, "no proper shape"),
        ({"a": 3}, "no description"),
        ({"a": entry(dtype="F8_E4M3", end=6)}, "stored as F8_E4M3"),
        ({"a": entry(dtype=None)}, "stored as None"),
        ([1], "no JSON object"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_read(tmp_path: Path, header: Any, message: str) -> None:
    with pytest.raises(CheckpointIncomplete, match=message):
        read_header(write(tmp_path / "x.safetensors", header))


@pytest.mark.parametrize("data", [b"", b"\0\0\0", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 50) + b"{}"])
def test_a_file_that_is_mostly_missing_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointIncomplete, match="header is cut off"):
        read_header(tmp_path / "x.safetensors")


def test_a_file_cut_short_says_how_much_is_missing(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointIncomplete, match=r"ends after \d+ bytes, but its tensors need \d+"):
        read_weights(folder)


# --- which files -----------------------------------------------------------------------------------------------------


def shards(folder: Path, table: dict[str, str]) -> Path:
    """A folder of shards with one tensor each, and this index."""
    folder.mkdir(exist_ok=True)
    for name, file in table.items():
        if Path(file).name == file:
            mx.save_safetensors(str(folder / file), {name: mx.ones(2)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return folder


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    folder = shards(tmp_path / "x", {"a": "m-1-of-2.safetensors", "b": "m-2-of-2.safetensors"})
    assert sorted(read_weights(folder)) == ["a", "b"]
    (folder / "m-2-of-2.safetensors").unlink()
    with pytest.raises(CheckpointIncomplete, match=r"m-2-of-2\.safetensors is missing"):
        read_weights(folder)


def test_a_tensor_that_the_index_promises_must_be_there(tmp_path: Path) -> None:
    folder = shards(tmp_path / "x", {"a": "m.safetensors"})
    index = {"weight_map": {"a": "m.safetensors", "b": "m.safetensors", "c": "m.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointIncomplete, match=r"Tensor b should be in m\.safetensors.*and 1 more"):
        read_weights(folder)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "a/../../x.safetensors", "/tmp/x.safetensors", "..\\x.safetensors"]
)
def test_an_index_may_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    mx.save_safetensors(str(tmp_path / "x.safetensors"), {"a": mx.ones(2)})
    with pytest.raises(CheckpointIncomplete, match="leads out of the model's folder"):
        read_weights(shards(tmp_path / "x", {"a": name}))


def test_a_link_may_not_lead_out_of_the_folder_but_may_inside_the_hub_cache(tmp_path: Path, folder: Path) -> None:
    weights = folder / "model.safetensors"
    outside = weights.rename(tmp_path / "outside.safetensors")
    weights.symlink_to(outside)
    with pytest.raises(CheckpointIncomplete, match="leads out"):
        read_weights(folder)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1234"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    outside.rename(blobs / "5678")
    (snapshot / "model.safetensors").symlink_to("../../blobs/5678")
    assert "head.weight" in read_weights(snapshot)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\noid x", "Git LFS pointer")]
)
def test_an_empty_file_and_an_lfs_pointer_are_named(folder: Path, data: bytes, message: str) -> None:
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointIncomplete, match=message):
        read_weights(folder)


def test_a_dangling_link_is_a_missing_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("gone")
    with pytest.raises(CheckpointIncomplete, match=r"model\.safetensors is missing"):
        read_weights(folder)


def test_a_folder_without_weights_says_what_was_looked_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointIncomplete, match=r"looked for model\.safetensors.*pytorch_model\.bin"):
        read_weights(folder)


@pytest.mark.parametrize("table", [None, {}, [], {"a": 3}, {"a": "weights.txt"}])
def test_an_index_without_a_proper_table_is_refused(folder: Path, table: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    with pytest.raises(CheckpointIncomplete, match=r"weight_map|no weight file"):
        read_weights(folder)


def test_pytorch_files_are_read_where_there_is_nothing_better(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes((GOLDEN / "module.bin").read_bytes())
    assert sorted(read_weights(tmp_path)) == ["bias", "weight"]
    assert stored_bytes(tmp_path) == 32
    assert stored_bytes(tmp_path, 2) == 16
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "part-1.bin")
    index = {"weight_map": {"weight": "part-1.bin", "bias": "part-1.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert sorted(read_weights(tmp_path)) == ["bias", "weight"]


def test_loose_safetensors_are_read_together_but_never_one_tensor_twice(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        mx.save_safetensors(str(tmp_path / f"weights.{number}.safetensors"), {name: mx.ones(2)})
    mx.save_safetensors(str(tmp_path / "consolidated.safetensors"), {"a": mx.ones(2)})
    assert sorted(read_weights(tmp_path)) == ["a", "b"]
    mx.save_safetensors(str(tmp_path / "weights.2.safetensors"), {"a": mx.ones(2)})
    with pytest.raises(CheckpointIncomplete, match="Tensor a is in two files"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "README.md"], ["pytorch_model.bin"]),
        (
            [
                "model-1-of-2.safetensors",
                "model-2-of-2.safetensors",
                "model.safetensors.index.json",
                "model.safetensors",
            ],
            ["model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.safetensors.index.json"],
        ),
        (["model.safetensors", "model.safetensors.index.json"], ["model.safetensors", "model.safetensors.index.json"]),
        (["model.safetensors", "model.fp16.safetensors", "onnx/model.safetensors"], ["model.safetensors"]),
        (["consolidated.safetensors", "model.safetensors"], ["model.safetensors"]),
    ],
)
def test_a_download_takes_the_weights_once(names: list[str], chosen: list[str]) -> None:
    assert choose_weights(names) == chosen
