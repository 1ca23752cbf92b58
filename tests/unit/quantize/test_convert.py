from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from ocr_mlx.domain import ModelRef, Quantization
from ocr_mlx.errors import CheckpointIncomplete, InvalidOption, ModelError, OutputExists, WeightMismatch
from ocr_mlx.model import load
from ocr_mlx.model.load import load_model, parameters
from ocr_mlx.quantize import convert as convert_module
from ocr_mlx.quantize import save
from ocr_mlx.quantize.convert import convert
from tests.unit.model.tiny import CONFIG, TinyGraph, checkpoint_tensors, logits, write_folder


@pytest.fixture(params=["cpu", "gpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading decides as on this kind of machine; the arrays stay on the CPU."""
    monkeypatch.setattr(load, "on_cpu", lambda: request.param == "cpu")


@pytest.mark.parametrize("stored", [np.float32, np.float16])
@pytest.mark.parametrize("dtype", [None, "float16", "stored"])
@pytest.mark.parametrize("bits", [4, 8])
def test_loading_a_conversion_gives_what_packing_in_memory_gives(
    tmp_path: Path, device: None, stored: Any, dtype: str | None, bits: int
) -> None:
    source = ModelRef(id="x", path=write_folder(tmp_path / "x", checkpoint_tensors(stored)))
    out = convert(source, tmp_path / "out", bits=bits, dtype=dtype)
    quantization = Quantization(bits=bits, group_size=64)
    saved = load_model(ModelRef(id="out", path=out), dtype=dtype)
    packed = load_model(source, dtype=dtype, quantize=quantization)
    assert saved.ref.quantization == packed.ref.quantization == quantization
    assert saved.bytes == packed.bytes
    held, expected = parameters(saved.graph), parameters(packed.graph)
    assert held.keys() == expected.keys()
    assert all(mx.array_equal(held[name], expected[name]) for name in held)
    assert mx.array_equal(logits(saved.graph), logits(packed.graph))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64])
def test_every_packing_that_mlx_has_comes_back(tmp_path: Path, ref: ModelRef, bits: int, group_size: int) -> None:
    out = convert(ref, tmp_path / "out", bits=bits, group_size=group_size)
    held = parameters(load_model(ModelRef(id="out", path=out)).graph)
    step = {2: 0.5, 3: 0.25, 4: 0.12, 5: 0.06, 6: 0.03, 8: 0.008}[bits]
    assert np.abs(np.array(held["head.weight"]) - checkpoint_tensors()["head.weight"]).max() < step


def test_other_loaders_find_their_way(tmp_path: Path, ref: ModelRef) -> None:
    """Read as mlx_lm reads a folder: the index, the record, `.scales` as the sign of a packed layer."""
    out = convert(ref, tmp_path / "out", bits=4, mixed=True)
    config = json.loads((out / "config.json").read_text())
    record = config["quantization"]
    assert (
        record
        == config["quantization_config"]
        == {
            "group_size": 64,
            "bits": 4,
            "head": {"group_size": 64, "bits": 8},
        }
    )
    index = json.loads((out / "model.safetensors.index.json").read_text())
    weights, metadata = mx.load(str(out / "model.safetensors"), return_metadata=True)
    assert metadata == {"format": "mlx"}
    assert index["weight_map"] == {name: "model.safetensors" for name in sorted(weights)}
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in weights.values())
    graph = TinyGraph(CONFIG)
    nn.quantize(
        graph,
        group_size=record["group_size"],
        bits=record["bits"],
        class_predicate=lambda path, module: record.get(path, f"{path}.scales" in weights),
    )
    graph.load_weights(list(weights.items()), strict=True)
    assert (
        np.abs(np.array(logits(graph)) - np.array(logits(load_model(ModelRef(id="out", path=out)).graph))).max() < 1e-4
    )


def test_mixed_gives_the_head_more_bits(tmp_path: Path, ref: ModelRef) -> None:
    graph = load_model(
        ModelRef(id="out", path=convert(ref, tmp_path / "out", bits=4, mixed=True)), dtype="stored"
    ).graph
    assert (graph.head.bits, graph.embed.bits) == (8, 4)
    with pytest.raises(InvalidOption, match="no bits are given"):
        convert(ref, tmp_path / "other", bits=None, mixed=True)


def test_saving_again_in_half_precision(tmp_path: Path, ref: ModelRef) -> None:
    out = convert(ref, tmp_path / "half", bits=None, dtype="float16")
    weights = mx.load(str(out / "model.safetensors"))
    assert {array.dtype for array in weights.values()} == {mx.float16}
    config = json.loads((out / "config.json").read_text())
    assert config == CONFIG | {"torch_dtype": "float16"}
    assert weights.keys() == parameters(load_model(ref).graph).keys()


def test_companions_come_along_and_nothing_else(tmp_path: Path, ref: ModelRef) -> None:
    (ref.path / "generation.txt").write_text('{"eos": 2}')
    (ref.path / "pytorch_model.bin").write_text("another format")
    (ref.path / "generation_config.json").symlink_to("generation.txt")
    out = convert(ref, tmp_path / "out", bits=4)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    assert not (out / "generation_config.json").is_symlink()
    assert (out / "generation_config.json").read_text() == '{"eos": 2}'
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert (out.stat().st_mode & 0o777) == (tmp_path / "tiny").stat().st_mode & 0o777


def test_progress_counts_the_bytes_written(tmp_path: Path, ref: ModelRef) -> None:
    steps: list[tuple[int, int]] = []
    out = convert(ref, tmp_path / "out", bits=8, on_progress=lambda *step: steps.append(step))
    total = json.loads((out / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    assert steps[-1] == (total, total)
    assert steps == sorted(steps)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_what_is_there_is_never_overwritten(tmp_path: Path, ref: ModelRef) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("out", "file", "link", "tiny"):
        with pytest.raises(OutputExists, match="exists already"):
            convert(ref, tmp_path / name, bits=4)
    assert (tmp_path / "out" / "mine").read_text() == "x"
    (tmp_path / "empty").mkdir()
    assert convert(ref, tmp_path / "empty", bits=4).is_dir()


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path: Path, ref: ModelRef) -> None:
    def meanwhile(done: int, total: int) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "mine").write_text("x")

    with pytest.raises(OutputExists, match="appeared meanwhile"):
        convert(ref, tmp_path / "out", bits=4, on_progress=meanwhile)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_nothing_stays_behind_after_an_interruption(tmp_path: Path, ref: ModelRef, error: type[BaseException]) -> None:
    def interrupt(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        convert(ref, tmp_path / "deep" / "out", bits=4, on_progress=interrupt)
    assert list((tmp_path / "deep").iterdir()) == []


def test_quantizing_twice_is_refused(tmp_path: Path, ref: ModelRef) -> None:
    out = convert(ref, tmp_path / "out", bits=8)
    for bits in (4, None):
        with pytest.raises(ModelError, match="quantized already"):
            convert(ModelRef(id="out", path=out), tmp_path / "again", bits=bits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 7}, "7 bits are not possible"),
        ({"bits": 0}, "0 bits are not possible"),
        ({"bits": 4, "group_size": 48}, "group size of 48"),
        ({"bits": 4, "group_size": 128}, "No layer of this model can be quantized in groups of 128"),
        ({"bits": 4, "dtype": "int8"}, "no dtype 'int8'"),
    ],
)
def test_impossible_options_are_refused(tmp_path: Path, ref: ModelRef, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        convert(ref, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_broken_source_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tensors = checkpoint_tensors()
    del tensors["norm.bias"]
    source = ModelRef(id="x", path=write_folder(tmp_path / "x", tensors))
    with pytest.raises(WeightMismatch, match=r"missing norm\.bias"):
        convert(source, tmp_path / "out", bits=4)
    del tensors["head.weight"]
    write_folder(tmp_path / "x", tensors)
    with pytest.raises(CheckpointIncomplete, match="Layer head has no weight"):
        convert(source, tmp_path / "out", bits=4)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_without_rights_is_named(tmp_path: Path, ref: ModelRef) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ModelError, match=r"could not be written: Permission denied"):
        convert(ref, tmp_path / "locked" / "out", bits=4)


def test_a_parent_that_is_a_file_is_named(tmp_path: Path, ref: ModelRef) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="could not be written"):
        convert(ref, tmp_path / "file" / "out", bits=4)


def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, ref: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[write] Unable to write 3145824 bytes to file.")

    monkeypatch.setattr(mx, "save_safetensors", full)
    with pytest.raises(ModelError, match="the disk took no more"):
        convert(ref, tmp_path / "out", bits=4)

    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert_module, "write_json", no_space)
    with pytest.raises(ModelError, match="No space left on device"):
        convert(ref, tmp_path / "out", bits=4)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_programming_error_is_not_disguised(tmp_path: Path, ref: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(mx, "save_safetensors", broken)
    with pytest.raises(RuntimeError, match="something else"):
        convert(ref, tmp_path / "out", bits=4)


# --- shards ----------------------------------------------------------------------------------------------------------


def test_large_models_are_cut_into_shards_that_load(tmp_path: Path, ref: ModelRef) -> None:
    tensors = load.read_sanitized(load.open_checkpoint(ref.path), None)
    expected = dict(tensors)
    with save.new_folder(tmp_path / "out") as folder:
        save.write_json(folder / "config.json", CONFIG)
        save.save_tensors(folder, tensors, shard_bytes=30_000)
    assert tensors == {}
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 2
    assert all((tmp_path / "out" / name).stat().st_size < 32_000 for name in files)
    held = parameters(load_model(ModelRef(id="out", path=tmp_path / "out")).graph)
    assert all(mx.array_equal(held[name], expected[name]) for name in held)


def test_a_tensor_larger_than_a_shard_has_one_to_itself(tmp_path: Path) -> None:
    save.save_tensors(tmp_path, {"a": mx.ones(2), "b": mx.ones(100), "c": mx.ones(2)}, shard_bytes=16)
    table = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(table.values())) == 3


def test_transposed_tensors_are_written_as_they_read(tmp_path: Path) -> None:
    array = mx.arange(6).reshape(2, 3).T
    save.save_tensors(tmp_path, {"a": array})
    assert mx.load(str(tmp_path / "model.safetensors"))["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
