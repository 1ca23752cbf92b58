"""Merging LoRA adapters: the arithmetic, the names, and everything that must not pass in silence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.domain import ModelRef, Quantization
from ocr_mlx.errors import CheckpointIncomplete, ModelError, WeightMismatch
from ocr_mlx.model import load, registry
from ocr_mlx.model.adapter import is_adapter, is_adapter_folder, read_adapter
from ocr_mlx.model.load import expected_bytes, load_model, parameters
from ocr_mlx.quantize.convert import convert
from tests.unit.model.adapters import ALPHA, CONFIG, RANK, RENAMING, TARGETS, adapter_tensors, merged, write_adapter
from tests.unit.model.tiny import TINY, TinyGraph, checkpoint_tensors, logits, write_folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


@pytest.fixture
def ref(folder: Path, adapter: Path) -> ModelRef:
    return ModelRef(id="adapter", path=folder, adapter=adapter)


def held(ref: ModelRef, **options: Any) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in parameters(load_model(ref, **options).graph).items()}


# --- the arithmetic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "scale"), [({}, ALPHA / RANK), ({"use_rslora": True}, ALPHA / RANK**0.5)])
def test_merged_is_the_base_plus_the_scaled_product(ref: ModelRef, config: dict[str, Any], scale: float) -> None:
    assert ref.adapter is not None
    write_adapter(ref.adapter, **config)
    found, expected, base = held(ref), merged(scale), checkpoint_tensors()
    for name in (f"{path}.weight" for path in TARGETS):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
        assert np.abs(found[name] - base[name]).max() > 0.1
    for name in found.keys() - {f"{path}.weight" for path in TARGETS} - {"patch.weight"}:
        np.testing.assert_array_equal(found[name], base[name])
    np.testing.assert_array_equal(found["patch.weight"], base["patch.weight"].transpose(0, 2, 3, 1))


def test_the_merged_model_says_something_else(ref: ModelRef) -> None:
    adapted, base = load_model(ref), load_model(ModelRef(id="base", path=ref.path))
    assert adapted.bytes == base.bytes == expected_bytes(ref) - 16 * 8
    assert np.abs(np.array(logits(adapted.graph)) - np.array(logits(base.graph))).max() > 0.1


def test_half_precision_is_merged_in_float32_and_rounded_once(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = ModelRef(id="x", path=write_folder(tmp_path / "half", checkpoint_tensors(np.float16)), adapter=adapter)
    stored = checkpoint_tensors(np.float16)["head.weight"].astype(np.float32)
    pairs = adapter_tensors()
    down, up = (pairs[f"base_model.model.head.lora_{side}.weight"] for side in "AB")
    exact = stored + ALPHA / RANK * (up.astype(np.float64) @ down)
    np.testing.assert_allclose(held(ref)["head.weight"], exact, atol=1e-6)
    monkeypatch.setattr(load, "on_cpu", lambda: False)
    rounded = held(ref)["head.weight"]
    assert rounded.dtype == np.float16
    np.testing.assert_allclose(rounded, exact, rtol=6e-4, atol=1e-6)
    assert held(ref, dtype="float32")["head.weight"].dtype == np.float32


def test_an_adapter_is_quantized_after_the_merge(ref: ModelRef) -> None:
    packed = held(ref, quantize=Quantization(bits=8, group_size=64))
    assert np.abs(packed["head.weight"] - merged()["head.weight"]).max() < 0.02


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "model.", "model.old.", "old."])
@pytest.mark.parametrize("middle", ["", ".default"])
def test_every_naming_finds_its_tensors(
    tmp_path: Path, ref: ModelRef, monkeypatch: pytest.MonkeyPatch, prefix: str, middle: str
) -> None:
    monkeypatch.setattr(registry, "families", lambda: (RENAMING,))
    assert ref.adapter is not None
    write_adapter(ref.adapter, adapter_tensors(prefix, middle))
    old = {f"old.{name}": array for name, array in checkpoint_tensors().items() if name != "position_ids"}
    for base in (ref.path, write_folder(tmp_path / "old", old)):
        found = held(ModelRef(id="x", path=base, adapter=ref.adapter))
        np.testing.assert_allclose(found["head.weight"], merged()["head.weight"], atol=1e-6)


def test_an_adapter_that_would_do_nothing_is_an_error(ref: ModelRef) -> None:
    """Names of another library version, which the family does not know: never a model that was not adapted."""
    assert ref.adapter is not None
    write_adapter(ref.adapter, adapter_tensors("model."))
    with pytest.raises(WeightMismatch, match=r"model\.head\.weight \(of the adapter adapter\)") as caught:
        load_model(ref)
    assert len(caught.value.extra) == len(TARGETS)


def test_one_layer_too_many_is_an_error(ref: ModelRef) -> None:
    assert ref.adapter is not None
    extra = {f"base_model.model.layers.7.lora_{side}.weight": np.ones((4, 4), np.float32) for side in "AB"}
    write_adapter(ref.adapter, adapter_tensors() | extra)
    with pytest.raises(WeightMismatch, match=r"unknown layers\.7\.weight"):
        load_model(ref)


def test_a_change_of_something_that_the_model_leaves_out_is_an_error(
    ref: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a head that is stored but tied: the adapter would be forgotten without a word."""

    class Tied(TinyGraph):
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            return {name: array for name, array in super().sanitize(weights).items() if name != "head.weight"}

    family = replace(RENAMING, build=Tied)  # type: ignore[arg-type]
    monkeypatch.setattr(registry, "families", lambda: (family,))
    with pytest.raises(ModelError, match=r"adapter changes head\.weight, which this model has not by itself"):
        load_model(ref)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.embed.lora_embedding_A",
        "base_model.model.head.lora_magnitude_vector",
        "base_model.model.head.weight",
        "layers.0.lora_A.weight",
        "base_model.model.head.lora_A.weight.more",
    ],
)
def test_tensors_that_are_no_pair_are_named(ref: ModelRef, name: str) -> None:
    assert ref.adapter is not None
    write_adapter(ref.adapter, adapter_tensors() | {name: np.ones((4, 4), np.float32)})
    with pytest.raises(WeightMismatch) as caught:
        load_model(ref)
    assert caught.value.extra == (name,)


def test_half_a_pair_is_named(ref: ModelRef) -> None:
    assert ref.adapter is not None
    tensors = adapter_tensors()
    del tensors["base_model.model.head.lora_B.weight"]
    write_adapter(ref.adapter, tensors)
    with pytest.raises(WeightMismatch, match=r"the other half of head\.weight"):
        load_model(ref)


def test_a_pair_that_is_there_twice_is_refused(ref: ModelRef) -> None:
    assert ref.adapter is not None
    write_adapter(ref.adapter, adapter_tensors() | adapter_tensors(middle=".default"))
    with pytest.raises(CheckpointIncomplete, match="twice, under two names"):
        load_model(ref)


@pytest.mark.parametrize("shape", [(4, 63), (3, 64), (64, 4), (4, 64, 1)])
def test_misshapen_pairs_are_named(ref: ModelRef, shape: tuple[int, ...]) -> None:
    assert ref.adapter is not None
    wrong = {"base_model.model.head.lora_A.weight": np.ones(shape, np.float32)}
    write_adapter(ref.adapter, adapter_tensors() | wrong)
    with pytest.raises(WeightMismatch, match=r"misshapen head\.weight"):
        load_model(ref)


def test_a_pair_for_something_that_is_no_matrix_is_named(ref: ModelRef) -> None:
    assert ref.adapter is not None
    pair = {f"base_model.model.norm.lora_{side}.weight": np.ones((4, 64), np.float32) for side in "AB"}
    write_adapter(ref.adapter, adapter_tensors() | pair)
    with pytest.raises(WeightMismatch, match=r"misshapen norm\.weight"):
        load_model(ref)


def test_an_empty_adapter_is_refused(ref: ModelRef) -> None:
    assert ref.adapter is not None
    write_adapter(ref.adapter, {})
    with pytest.raises(CheckpointIncomplete, match="adapter is empty"):
        load_model(ref)


def test_an_adapter_without_its_weights_is_refused(ref: ModelRef) -> None:
    assert ref.adapter is not None
    (ref.adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointIncomplete, match=r"adapter_model\.safetensors and adapter_model\.bin"):
        load_model(ref)


# --- what its config says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "an adapter of type IA3"),
        ({"peft_type": None}, "no PEFT adapter"),
        ({"use_dora": True}, "`use_dora`: True"),
        ({"bias": "all"}, "`bias`: 'all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"alpha_pattern": {"head": 3}}, "alpha_pattern"),
        ({"rank_pattern": {"head": 3}}, "rank_pattern"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(adapter: Path, change: dict[str, Any], message: str) -> None:
    write_adapter(adapter, **change)
    with pytest.raises(ModelError, match=message) as caught:
        read_adapter(adapter)
    assert "merge_and_unload" in caught.value.hint


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva"])
def test_ways_to_start_training_that_leave_the_base_alone(adapter: Path, start: object) -> None:
    assert read_adapter(write_adapter(adapter, init_lora_weights=start)).scale == ALPHA / RANK


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 0}, "`r` is 0"),
        ({"r": 2.5}, "`r` is 2.5"),
        ({"r": True}, "`r` is True"),
        ({"lora_alpha": None}, "`lora_alpha` is None"),
        ({"lora_alpha": "16"}, "`lora_alpha` is '16'"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": ""}, "names no base model"),
    ],
)
def test_a_broken_config_says_what_is_wrong(adapter: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointIncomplete, match=message):
        read_adapter(write_adapter(adapter, **change))


def test_a_config_of_an_older_version_has_fewer_keys(adapter: Path) -> None:
    few = {key: CONFIG[key] for key in ("peft_type", "base_model_name_or_path", "r", "lora_alpha")}
    (adapter / "adapter_config.json").write_text(json.dumps(few | {"revision": "abc"}))
    found = read_adapter(adapter)
    assert (found.rank, found.scale, found.base, found.base_revision) == (4, 2.5, "someone/tiny", "abc")


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_a_quantized_base_is_refused(ref: ModelRef, key: str) -> None:
    write_folder(ref.path, **{key: {"bits": 4, "group_size": 64, "quant_method": "bitsandbytes"}})
    with pytest.raises(ModelError, match="is quantized") as caught:
        load_model(ref)
    assert "unquantized original" in caught.value.hint


def test_which_files_make_an_adapter(adapter: Path, folder: Path, tmp_path: Path) -> None:
    assert is_adapter_folder(adapter)
    assert not is_adapter_folder(folder) and not is_adapter_folder(tmp_path / "nowhere")
    own = ["adapter_config.json", "adapter_model.safetensors", "config.json", "training_args.bin", "optimizer.pt"]
    assert is_adapter(own)
    for weights in ("model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"):
        assert not is_adapter([*own, weights])


# --- tokenizer and processor files -----------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the family's processor finds in the folder it is given."""
    from dataclasses import replace

    found: list[dict[str, str]] = []

    def processor(folder: Path, config: object) -> None:
        found.append({path.name: path.read_text() for path in folder.iterdir() if path.suffix == ".json"})

    monkeypatch.setattr(registry, "families", lambda: (replace(TINY, processor=processor),))
    return found


def test_the_bases_files_are_used(ref: ModelRef, seen: list[dict[str, str]]) -> None:
    (ref.path / "tokenizer.json").write_text('"base"')
    load_model(ref)
    assert seen[0]["tokenizer.json"] == '"base"' and "adapter_config.json" not in seen[0]


def test_the_adapters_own_files_go_first(ref: ModelRef, seen: list[dict[str, str]]) -> None:
    assert ref.adapter is not None
    (ref.path / "generation_config.json").write_text('"base"')
    (ref.adapter / "tokenizer.json").write_text('"adapter"')
    load_model(ref)
    assert seen[0]["tokenizer.json"] == '"adapter"' and seen[0]["generation_config.json"] == '"base"'
    assert json.loads(seen[0]["config.json"])["model_type"] == "tiny"


# --- conversion ------------------------------------------------------------------------------------------------------


def test_convert_writes_a_whole_model(tmp_path: Path, ref: ModelRef) -> None:
    assert ref.adapter is not None
    (ref.adapter / "tokenizer.json").write_text('"adapter"')
    out = convert(ref, tmp_path / "out", bits=None)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    assert (out / "tokenizer.json").read_text() == '"adapter"'
    found, expected = held(ModelRef(id="out", path=out)), held(ref)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_convert_leaves_nothing_of_the_adapter_behind(
    tmp_path: Path, ref: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever reads the folder next must not merge a second time."""
    from dataclasses import replace

    monkeypatch.setattr(registry, "families", lambda: (replace(TINY, files=("*",)),))
    out = convert(ref, tmp_path / "out", bits=None)
    assert not any("adapter" in path.name for path in out.iterdir())
    assert not is_adapter_folder(out)


def test_convert_packs_what_was_merged(tmp_path: Path, ref: ModelRef) -> None:
    out = convert(ref, tmp_path / "out", bits=4)
    saved = load_model(ModelRef(id="out", path=out))
    packed = load_model(ref, quantize=Quantization(bits=4, group_size=64))
    assert mx.array_equal(logits(saved.graph), logits(packed.graph))
