"""Names and shapes of all checkpoints at full size, and folders as others write them."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from scripts import keys

from ocr_mlx.domain import ModelRef, Quantization
from ocr_mlx.errors import UnsupportedArchitecture, WeightMismatch
from ocr_mlx.model.families.lighton_ocr.family import FAMILY
from ocr_mlx.model.load import load_model
from ocr_mlx.model.registry import family_for
from ocr_mlx.quantize.convert import convert
from tests.families import contract
from tests.families import lighton_checkpoint as made

HERE = Path(__file__).parent
HEAD, TABLE = "lm_head.weight", "model.language_model.embed_tokens.weight"
NAMES = (
    ("vision_tower.vision_model", "model.vision_encoder"),
    ("multi_modal_projector", "model.vision_projection"),
    ("language_model.model", "model.language_model"),
    ("language_model.lm_head", "lm_head"),
)
"""How the MLX community calls the parts."""


def config(name: str, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / f"config-{name}.json").read_text())
    found["text_config"] |= changes
    return found


def table() -> keys.Shapes:
    return keys.expand((HERE / "keys-2-1b.txt").read_text())


def community(name: str) -> str:
    for theirs, ours in NAMES:
        if name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    raise AssertionError(name)


# --- full size


def test_graph_has_the_published_names_and_shapes() -> None:
    before = mx.get_active_memory()
    assert keys.disagreements(config("2-1b"), keys.compress(table())) == []
    assert mx.get_active_memory() - before < 50_000_000
    assert len(table()) == 532
    assert sum(map(math.prod, table().values())) == 1_005_647_872
    assert FAMILY.sizes["lightonai/LightOnOCR-3-1B"] == 2 * 1_005_647_872


@pytest.mark.parametrize(("vocabulary", "name"), [(16_384, "16k"), (32_768, "32k")])
def test_pruned_models_have_a_head_of_their_own(vocabulary: int, name: str) -> None:
    shapes = table() | {TABLE: (vocabulary, 1024), HEAD: (vocabulary, 1024)}
    assert keys.disagreements(config("0.9b-16k", vocab_size=vocabulary), keys.compress(shapes)) == []
    assert FAMILY.sizes[f"lightonai/LightOnOCR-0.9B-{name}-1025"] == 2 * sum(map(math.prod, shapes.values()))


def test_published_tables_are_the_committed_ones(model_facts: Path) -> None:
    found = keys._read(model_facts / "tensors" / "lightonai__LightOnOCR-2-1B.tsv")
    assert found.pop(HEAD) == found[TABLE]
    assert keys.compress(found) == (HERE / "keys-2-1b.txt").read_text()


def test_the_communitys_names_become_ours(model_facts: Path) -> None:
    lines = (model_facts / "tensors" / "mlx__LightOnOCR-2-1B.tsv").read_text().splitlines()
    seen = 0
    for name, shape, *_ in (line.split("\t") for line in lines if not line.startswith("#")):
        layers = 1 if ".N." not in name else 24 if "vision" in name else 28
        for layer in range(layers):
            ours = FAMILY.rename(name.replace(".N.", f".{layer}."))
            expected = table()[ours]
            if ours.endswith("patch_conv.weight"):
                expected = (expected[0], *expected[2:], expected[1])
            assert tuple(json.loads(shape)) == expected
            seen += 1
    assert seen == 532


@pytest.mark.parametrize("name", ["0.9B-16k-1025", "0.9B-32k-1025", "1B-1025", "2-1B", "2-1B-bbox-soup", "3-1B"])
def test_published_configs_are_read(name: str, model_facts: Path) -> None:
    found = json.loads((model_facts / "configs" / f"lightonai__LightOnOCR-{name}" / "config.json").read_text())
    assert family_for(found) is FAMILY
    graph: Any = FAMILY.build(found)
    assert ("lm_head" in graph) is name.startswith("0.9B")
    assert graph.max_positions == (16_384 if name[0] in "23" else 8192)
    assert graph._image_token == (7 if name.startswith("0.9B") else 151_655)
    assert f"lightonai/LightOnOCR-{name}" in FAMILY.checkpoints


# --- names


def test_renaming_twice_is_once() -> None:
    for name in (*table(), HEAD, "model.language_model.layers.3.mlp.down_proj", "lm_head"):
        assert FAMILY.rename(name) == name
        assert FAMILY.rename(community(f"{name}.")[:-1]) == name
    assert FAMILY.rename("vision_tower.patch_conv.weight") == "model.vision_encoder.patch_conv.weight"
    assert FAMILY.rename("model.multi_modal_projector.norm.weight") == "model.vision_projection.norm.weight"
    assert FAMILY.rename("bits") == "bits"


def test_other_mistral3_models_are_refused() -> None:
    other = config("2-1b") | {"architectures": ["Mistral3ForConditionalGeneration"]}
    with pytest.raises(UnsupportedArchitecture):
        family_for(other)
    assert family_for(config("2-1b") | {"architectures": None}) is FAMILY


def test_recipe_spares_the_tower_and_lifts_what_suffers() -> None:
    query, value, down = (
        f"model.language_model.layers.3.{part}" for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
    )
    tower = ["model.vision_encoder.transformer.layers.0.attention.v_proj", "model.vision_projection.linear_1"]
    words = ["model.language_model.embed_tokens", "lm_head"]
    assert [FAMILY.recipe(path, False) for path in (*tower, query, value, down, *words)] == [False] * 2 + [True] * 5
    eight = {"bits": 8}
    assert [FAMILY.recipe(path, True) for path in (*tower, query, value, down, *words)] == [False] * 2 + [True] + [
        eight
    ] * 4


# --- folders


@pytest.mark.parametrize("case", ["odd_grids", "untied"])
def test_the_communitys_conversions_are_read(case: str, tmp_path: Path) -> None:
    ref = made.write(case, tmp_path / "published")
    expected = load_model(ref, dtype="float32", quantize=Quantization(bits=4, group_size=32))
    packed: dict[str, mx.array] = {}
    for name, array in tensors_in(expected).items():
        packed[community(name)] = array
    folder = made.write(case, tmp_path / "community").path
    mx.save_safetensors(str(folder / "model.safetensors"), packed, metadata={"format": "mlx"})
    values = json.loads((folder / "config.json").read_text())
    record = {"group_size": 32, "bits": 4, "mode": "affine", "vision_tower": False}
    (folder / "config.json").write_text(json.dumps(values | {"quantization": record, "quantization_config": record}))
    found = load_model(ModelRef(id="community", path=folder), dtype="float32")
    assert any(name.endswith(".scales") for name in packed)
    contract.same(
        contract.greedy(expected.graph, made.alike(case, 2)), contract.greedy(found.graph, made.alike(case, 2))
    )


def tensors_in(model: Any) -> dict[str, mx.array]:
    from mlx.utils import tree_flatten

    return dict(tree_flatten(model.graph.parameters()))


def test_overrides_of_single_layers_are_read_under_any_name(tmp_path: Path) -> None:
    ref = made.write("odd_grids", tmp_path / "published")
    down = "model.language_model.layers.1.mlp.down_proj"
    tensors = {community(name): mx.array(array) for name, array in made.tensors_of("odd_grids").items()}
    for path, bits in ((down, 8), ("model.language_model.layers.0.self_attn.q_proj", 4)):
        weight = tensors.pop(f"{community(path)}.weight")
        for part, value in zip(("weight", "scales", "biases"), mx.quantize(weight, 32, bits), strict=True):
            tensors[f"{community(path)}.{part}"] = value
    mx.save_safetensors(str(ref.path / "model.safetensors"), tensors, metadata={"format": "mlx"})
    values = json.loads((ref.path / "config.json").read_text())
    record = {"group_size": 32, "bits": 4, community(down): {"group_size": 32, "bits": 8}}
    (ref.path / "config.json").write_text(json.dumps(values | {"quantization": record}))
    graph: Any = load_model(ref, dtype="float32").graph
    layers = graph.model.language_model.layers
    assert (layers[1].mlp.down_proj.bits, layers[0].self_attn.q_proj.bits) == (8, 4)
    assert not hasattr(layers[0].mlp.down_proj, "bits")


def test_a_tied_head_that_was_stored_is_dropped(tmp_path: Path) -> None:
    tensors = made.tensors_of("odd_grids")
    ref = made.write("odd_grids", tmp_path / "model", tensors=tensors | {HEAD: tensors[TABLE]})
    plain = made.write("odd_grids", tmp_path / "plain")
    rows = made.alike("odd_grids", 1)
    found, expected = (contract.greedy(load_model(r, dtype="float32").graph, rows) for r in (ref, plain))
    contract.same(found, expected)


def test_a_missing_head_is_an_error(tmp_path: Path) -> None:
    tensors = made.tensors_of("untied")
    del tensors[HEAD]
    with pytest.raises(WeightMismatch, match=HEAD):
        load_model(made.write("untied", tmp_path / "model", tensors=tensors))


@pytest.mark.parametrize("odd", [True, False])
def test_data_may_begin_anywhere(odd: bool, tmp_path: Path) -> None:
    """LightOnOCR-2-1B's file has a header of odd length: its tensors lie at odd addresses."""
    ref = made.write("odd_grids", tmp_path / "model")
    path = ref.path / "model.safetensors"
    arrays = {n: mx.array(a).astype(mx.bfloat16) for n, a in made.tensors_of("odd_grids").items()}
    mx.save_safetensors(str(tmp_path / "aligned.safetensors"), arrays)
    path.write_bytes(shifted((tmp_path / "aligned.safetensors").read_bytes(), odd))
    assert (8 + struct.unpack("<Q", path.read_bytes()[:8])[0]) % 2 == odd
    model: Any = load_model(ref, dtype="float32").graph
    for name, array in tensors_in(load_model(ref, dtype="float32")).items():
        expected = arrays[name].astype(mx.float32)
        if name.endswith("patch_conv.weight"):
            expected = expected.transpose(0, 2, 3, 1)
        assert mx.array_equal(array, expected).item(), name
    logits, _ = model.prefill(made.alike("odd_grids", 1))
    assert np.isfinite(contract.numbers(logits)).all()


def shifted(file: bytes, odd: bool) -> bytes:
    """The same safetensors file with a header that ends at an odd or even address."""
    length = struct.unpack("<Q", file[:8])[0]
    header = json.dumps(json.loads(file[8 : 8 + length]))
    header += " " * ((len(header) % 2) != odd)
    return struct.pack("<Q", len(header)) + header.encode() + file[8 + length :]


def test_a_mixed_conversion_is_recorded_and_complete(tmp_path: Path) -> None:
    ref = made.write("untied", tmp_path / "model")
    folder = convert(ref, tmp_path / "mixed", bits=4, group_size=32, mixed=True)
    record = json.loads((folder / "config.json").read_text())["quantization"]
    tensors = mx.load(str(folder / "model.safetensors"))
    packed = {name.removesuffix(".scales") for name in tensors if name.endswith(".scales")}
    assert record["bits"] == 4
    lifted = {path for path in packed if path.endswith(("embed_tokens", "lm_head", "v_proj", "down_proj"))}
    assert {path: record[path]["bits"] for path in record if path in packed} == dict.fromkeys(lifted, 8)
    assert not any("vision" in path for path in packed)
    assert packed > lifted > {"lm_head", "model.language_model.embed_tokens"}
    for name in ("chat_template.jinja", "tokenizer.json", "processor_config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (ref.path / name).read_bytes()
