from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from ocr_mlx.domain import ModelRef, Quantization
from ocr_mlx.errors import CheckpointIncomplete, ModelError, UnsupportedArchitecture, WeightMismatch
from ocr_mlx.model import load, registry
from ocr_mlx.model.layers.few_rows import FewRowsLinear
from ocr_mlx.model.load import expected_bytes, load_model, parameters
from tests.unit.model.tiny import TINY, checkpoint_tensors, logits, write_folder

FOUR = Quantization(bits=4, group_size=64)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load as on a machine with Metal; the arrays stay on the CPU."""
    monkeypatch.setattr(load, "on_cpu", lambda: False)


def test_tensors_arrive_in_the_layout_of_the_graph(ref: ModelRef) -> None:
    loaded = load_model(ref)
    stored = checkpoint_tensors()
    held = parameters(loaded.graph)
    np.testing.assert_array_equal(held["patch.weight"], stored["patch.weight"].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(held["head.weight"], stored["head.weight"])
    assert "position_ids" not in held
    assert loaded.bytes == sum(a.nbytes for n, a in stored.items() if n != "position_ids")
    assert loaded.family.name == "tiny"
    assert loaded.processor == ref.path.name
    assert loaded.ref == ref


@pytest.fixture
def renaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that also reads `old.` names."""
    family = replace(TINY, rename=lambda name: name.removeprefix("old."))
    monkeypatch.setattr(registry, "families", lambda: (family,))


def old(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"old.{name}": array for name, array in tensors.items()}


@pytest.mark.usefixtures("renaming")
def test_another_naming_is_read(ref: ModelRef, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "old", old(checkpoint_tensors()))
    found = load_model(ModelRef(id="old", path=folder))
    assert mx.array_equal(logits(found.graph), logits(load_model(ref).graph))


@pytest.mark.usefixtures("renaming", "gpu")
def test_another_naming_is_read_quantized_layer_by_layer(tmp_path: Path) -> None:
    tensors = checkpoint_tensors()
    names = ("weight", "scales")
    packed = mx.quantize(mx.array(tensors.pop("head.weight")), group_size=32, bits=4, mode="mxfp4")
    tensors |= {f"head.{name}": np.array(array) for name, array in zip(names, packed, strict=True)}
    record = {"group_size": 64, "bits": 8, "old.head": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}
    folder = write_folder(tmp_path / "old", old(tensors), quantization=record)
    head = load_model(ModelRef(id="old", path=folder)).graph.head  # type: ignore[attr-defined]
    assert (head.mode, head.bits, head.group_size) == ("mxfp4", 4, 32)


@pytest.mark.usefixtures("renaming")
def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    tensors = checkpoint_tensors()
    folder = write_folder(tmp_path / "twice", tensors | {"old.head.weight": tensors["head.weight"]})
    with pytest.raises(CheckpointIncomplete, match=r"head\.weight is there twice"):
        load_model(ModelRef(id="twice", path=folder))


def test_once_loaded_the_files_are_no_longer_needed(ref: ModelRef) -> None:
    loaded = load_model(ref)
    expected = logits(load_model(ref).graph)
    (ref.path / "model.safetensors").unlink()
    assert mx.array_equal(logits(loaded.graph), expected)


def test_half_precision_is_expanded_on_a_cpu_and_kept_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = ModelRef(id="half", path=write_folder(tmp_path / "half", checkpoint_tensors(np.float16)))
    assert {a.dtype for a in parameters(load_model(ref).graph).values()} == {mx.float32}
    monkeypatch.setattr(load, "on_cpu", lambda: False)
    assert {a.dtype for a in parameters(load_model(ref).graph).values()} == {mx.float16}


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", mx.float32), ("float16", mx.float16), ("bfloat16", mx.bfloat16), ("stored", mx.float32)],
)
def test_an_explicit_dtype_counts(ref: ModelRef, dtype: str, expected: mx.Dtype) -> None:
    assert {a.dtype for a in parameters(load_model(ref, dtype=dtype).graph).values()} == {expected}


def test_an_unknown_dtype_names_the_known_ones(ref: ModelRef) -> None:
    with pytest.raises(ModelError, match=r"float64.*float32, float16, bfloat16, stored"):
        load_model(ref, dtype="float64")


def test_quantizing_in_memory_packs_what_the_recipe_names_and_groups_fit(ref: ModelRef, gpu: None) -> None:
    graph = load_model(ref, quantize=FOUR).graph
    kinds = {path: type(module) for path, module in graph.named_modules() if path}
    assert kinds["embed"] is nn.QuantizedEmbedding
    assert kinds["layers.0"] is kinds["head"] is nn.QuantizedLinear
    assert kinds["odd"] is nn.Linear
    assert kinds["patch"] is nn.Conv2d


def test_on_a_cpu_quantized_layers_become_plain_ones_with_the_quantized_values(
    ref: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_model(ref, quantize=FOUR)
    monkeypatch.setattr(load, "on_cpu", lambda: False)
    packed = load_model(ref, quantize=FOUR)
    assert isinstance(plain.graph.head, FewRowsLinear) and type(packed.graph.head) is nn.QuantizedLinear
    assert plain.bytes > packed.bytes
    assert plain.ref.quantization == packed.ref.quantization == FOUR
    np.testing.assert_allclose(logits(plain.graph), logits(packed.graph), atol=2e-5)
    assert np.abs(np.array(logits(plain.graph)) - np.array(logits(load_model(ref).graph))).max() > 1e-3


def test_an_explicit_dtype_leaves_layers_packed_on_a_cpu(ref: ModelRef) -> None:
    held = parameters(load_model(ref, quantize=FOUR, dtype="float16").graph)
    assert held["head.weight"].dtype == mx.uint32
    assert held["head.scales"].dtype == mx.float16


@pytest.fixture
def packed(tmp_path: Path) -> Iterator[Path]:
    """A folder as other MLX tools write it: 4 bits, the head 8, layer 1 plain, in groups of 32."""
    folder = write_folder(tmp_path / "packed")
    tensors = {n: mx.array(a) for n, a in checkpoint_tensors().items()}
    for path, bits in {"embed": 4, "layers.0": 4, "head": 8}.items():
        w, scales, biases = mx.quantize(tensors[f"{path}.weight"], group_size=32, bits=bits)
        tensors |= {f"{path}.weight": w, f"{path}.scales": scales, f"{path}.biases": biases}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    record = {"group_size": 32, "bits": 4, "head": {"group_size": 32, "bits": 8}, "layers.1": False}
    config = json.loads((folder / "config.json").read_text()) | {"quantization": record}
    (folder / "config.json").write_text(json.dumps(config))
    yield folder


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_a_community_conversion_loads_with_its_overrides(packed: Path, gpu: None, key: str) -> None:
    config = json.loads((packed / "config.json").read_text())
    config[key] = config.pop("quantization")
    (packed / "config.json").write_text(json.dumps(config))
    loaded = load_model(ModelRef(id="packed", path=packed))
    assert loaded.ref.quantization == Quantization(bits=4, group_size=32)
    assert (loaded.graph.head.bits, loaded.graph.head.group_size) == (8, 32)
    assert (loaded.graph.embed.bits, type(loaded.graph.layers[1])) == (4, nn.Linear)


def test_a_community_conversion_is_expanded_on_a_cpu(packed: Path) -> None:
    graph = load_model(ModelRef(id="packed", path=packed)).graph
    stored = checkpoint_tensors()
    assert np.abs(np.array(graph.head.weight) - stored["head.weight"]).max() < 0.01
    assert np.abs(np.array(graph.embed.weight) - stored["embed.weight"]).max() < 0.1


def test_quantizing_twice_is_refused(packed: Path) -> None:
    with pytest.raises(ModelError, match="quantized already"):
        load_model(ModelRef(id="packed", path=packed), quantize=FOUR)


def test_packed_layers_without_a_record_are_refused(packed: Path) -> None:
    config = json.loads((packed / "config.json").read_text())
    del config["quantization"]
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointIncomplete, match=r"Layer \S+ is quantized, but config.json has no"):
        load_model(ModelRef(id="packed", path=packed))


def test_packed_layers_that_contradict_the_graph_are_refused(packed: Path) -> None:
    tensors = mx.load(str(packed / "model.safetensors"))
    tensors["head.scales"] = mx.zeros((96, 3))
    mx.save_safetensors(str(packed / "model.safetensors"), dict(tensors))
    with pytest.raises(CheckpointIncomplete, match="layer head does not fit its 64 inputs"):
        load_model(ModelRef(id="packed", path=packed))


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("mode", ["nvfp4", "unheard of"])
def test_a_packing_that_mlx_has_not_is_refused(
    packed: Path, monkeypatch: pytest.MonkeyPatch, mode: str, on_gpu: bool
) -> None:
    monkeypatch.setattr(load, "on_cpu", lambda: not on_gpu)
    config = json.loads((packed / "config.json").read_text())
    config["quantization"]["mode"] = mode
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointIncomplete, match=r"packed weight of layer \S+ cannot be unpacked"):
        load_model(ModelRef(id="packed", path=packed))


def test_another_tools_packing_is_refused_by_name(folder: Path) -> None:
    write_folder(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    with pytest.raises(ModelError, match="packed by gptq"):
        load_model(ModelRef(id="x", path=folder))


def test_missing_extra_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    tensors = checkpoint_tensors()
    del tensors["norm.bias"]
    tensors["unheard.of"] = np.zeros(2, np.float32)
    tensors["odd.weight"] = np.zeros((64, 47), np.float32)
    with pytest.raises(WeightMismatch) as caught:
        load_model(ModelRef(id="x", path=write_folder(tmp_path / "x", tensors)))
    assert caught.value.missing == ("norm.bias",)
    assert caught.value.extra == ("unheard.of",)
    assert caught.value.shape == {"odd.weight": ((64, 48), (64, 47))}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "holds a list"),
        ("\xff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"model_type": "tiny"}', "has no 'width'"),
        ('{"model_type": "tiny", "width": "a", "odd": 1, "vocabulary": 2}', "describes no tiny model"),
        ('{"model_type": "tiny", "quantization": 3}', "not an object"),
    ],
)
def test_a_broken_config_says_what_is_wrong(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointIncomplete, match=message):
        load_model(ModelRef(id="x", path=folder))


def test_a_folder_without_config_and_a_missing_folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointIncomplete, match=r"config\.json is missing in"):
        load_model(ModelRef(id="x", path=folder))
    with pytest.raises(CheckpointIncomplete, match="There is no folder"):
        load_model(ModelRef(id="x", path=folder / "nowhere"))


def test_a_foreign_architecture_lists_what_is_supported(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UnsupportedArchitecture, match=r"'bert' are not supported.*tiny \(tiny\)"):
        load_model(ModelRef(id="x", path=folder))


def test_expected_bytes_is_what_loading_holds_but_for_dropped_buffers(tmp_path: Path, ref: ModelRef) -> None:
    buffer = 16 * 8
    half = ModelRef(id="half", path=write_folder(tmp_path / "half", checkpoint_tensors(np.float16)))
    for one in (ref, half):
        for dtype in (None, "float16", "stored"):
            assert expected_bytes(one, dtype=dtype) - buffer == load_model(one, dtype=dtype).bytes


def test_expected_bytes_counts_packed_layers_as_they_will_be_held(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ModelRef(id="packed", path=packed)
    assert expected_bytes(one) - 16 * 8 == load_model(one).bytes
    monkeypatch.setattr(load, "on_cpu", lambda: False)
    assert expected_bytes(one) - 16 * 8 == load_model(one).bytes < one.path.joinpath("model.safetensors").stat().st_size


def test_loading_holds_little_more_than_the_weights(tmp_path: Path) -> None:
    """Half-precision sources are dropped as their float32 copies come to be."""
    wide = {"width": 1024, "odd": 1024, "vocabulary": 8192}
    tensors = {
        name: np.resize(array, tuple({64: 1024, 48: 1024, 96: 8192}.get(n, n) for n in array.shape)).astype(np.float16)
        for name, array in checkpoint_tensors().items()
    } | {"position_ids": np.arange(16)}
    ref = ModelRef(id="wide", path=write_folder(tmp_path / "wide", tensors, **wide))
    del tensors
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    loaded = load_model(ref)
    largest = max(array.nbytes for array in parameters(loaded.graph).values())
    assert loaded.bytes > 70e6
    assert 0.99 * loaded.bytes <= mx.get_active_memory() - before <= 1.01 * loaded.bytes
    assert mx.get_peak_memory() - before <= loaded.bytes + 0.6 * largest
