"""The published checkpoints' names and shapes at full size, and the other namings that are around."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from scripts import keys

from ocr_mlx.errors import WeightMismatch
from ocr_mlx.model.families.deepseek_ocr.model import build
from ocr_mlx.model.families.deepseek_ocr.names import ARCHITECTURES, MODEL_TYPES, rename
from ocr_mlx.model.load import check_fit, load_model, parameters
from ocr_mlx.model.registry import family_for
from tests.families import contract
from tests.families import deepseek_checkpoint as checkpoint
from tests.families import deepseek_made as made

HERE = Path(__file__).parent
FLOATS = {1: 3_336_106_240, 2: 3_389_119_360}
TENSORS = {1: (2710, 630), 2: (2707, 628)}
"""As published, and in our graph: experts stacked, CLIP's patch convolution left out."""
NAMES = {1: "DeepSeek-OCR", 2: "DeepSeek-OCR-2"}
UNUSED = "vision_model.embeddings.patch_embedding.weight"


def table(version: int) -> str:
    return (HERE / f"keys-{version}.txt").read_text()


def config(version: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / f"config-{version}.json").read_text())
    return found


@pytest.mark.parametrize("version", FLOATS)
def test_graph_has_the_published_names_and_shapes(version: int) -> None:
    before = mx.get_active_memory()
    assert keys.disagreements(config(version), table(version)) == []
    assert mx.get_active_memory() - before < 50_000_000


@pytest.mark.parametrize("version", FLOATS)
def test_tables_are_whole(version: int) -> None:
    shapes = keys.expand(table(version))
    assert len(shapes) == TENSORS[version][0]
    assert sum(math.prod(shape) for shape in shapes.values()) == FLOATS[version]
    assert len(parameters(build(config(version)))) == TENSORS[version][1]


def test_published_names_are_the_graphs_own() -> None:
    for version in FLOATS:
        names = [*keys.expand(table(version)), *parameters(build(config(version)))]
        assert [rename(name) for name in names] == names


def patterns(version: int) -> Counter[tuple[str, str]]:
    """(name with N for numbers, shape) -> how often, as MLX conversions have it."""
    lines = (line.split("\t") for line in (HERE / f"keys-mlx-{version}.tsv").read_text().splitlines())
    found: Counter[tuple[str, str]] = Counter()
    for name, shape, times in lines:
        found[(numberless(rename(re.sub(r"\.N(?=\.)", ".7", name))), shape)] += int(times.removeprefix("x"))
    return found


def numberless(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".N", name)


@pytest.mark.parametrize("version", FLOATS)
def test_names_of_mlx_conversions_become_the_graphs(version: int) -> None:
    wanted = patterns(version)
    has = Counter(
        (numberless(name), str(list(array.shape))) for name, array in parameters(build(config(version))).items()
    )
    assert [name for name, _ in wanted - has] == [f"model.{UNUSED}"] * (version == 1)
    assert has - wanted == Counter()


def listed(text: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a list "name, shape, dtype, count, indices"; indices are N=0..11 or N=1,3, one per N."""
    shapes: dict[str, tuple[int, ...]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, shape, _, _, *indices = line.split("\t")
        numbers = [_numbers(part.removeprefix("N=")) for part in (indices[0].split() if indices else [])]
        for chosen in itertools.product(*numbers):
            pieces = re.split(r"(?<=\.)N(?=\.)", name)
            full = pieces[0] + "".join(f"{number}{piece}" for number, piece in zip(chosen, pieces[1:], strict=True))
            shapes[full] = tuple(json.loads(shape))
    return shapes


def _numbers(text: str) -> list[int]:
    if ".." in text:
        first, last = text.split("..")
        return list(range(int(first), int(last) + 1))
    return [int(number) for number in text.split(",")]


@pytest.mark.parametrize("version", FLOATS)
def test_tables_are_those_of_the_facts(version: int, model_facts: Path) -> None:
    tensors, name = model_facts / "tensors", NAMES[version]
    assert listed((tensors / f"deepseek-ai__{name}.tsv").read_text()) == keys.expand(table(version))
    lines = (tensors / f"mlx__{name}.tsv").read_text().splitlines()
    assert (HERE / f"keys-mlx-{version}.tsv").read_text().splitlines() == [
        "\t".join(line.split("\t")[:3]) for line in lines if not line.startswith("#")
    ]
    assert json.loads((model_facts / "configs" / f"deepseek-ai__{name}" / "config.json").read_text()) == config(version)


# --- tiny checkpoints under other names ------------------------------------------------------------------------------


def mlx_name(name: str) -> str:
    """A tensor of ours as an MLX conversion names it."""
    if found := re.match(r"model\.qwen2_model\.(query_\d+)\.weight$", name):
        return f"vision_model.qwen2_encoder.{found[1]}"
    for ours, theirs in (
        ("model.qwen2_model.model.model.", "vision_model.qwen2_encoder."),
        ("model.sam_model.", "sam_model."),
        ("model.vision_model.", "vision_model."),
        ("model.projector.", "projector."),
        ("model.image_newline", "image_newline"),
        ("model.view_seperator", "view_separator"),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return f"language_model.{name}"


def mlx_config(case: str) -> dict[str, Any]:
    config = made.published(made.config_of(case))
    return config | {"model_type": "deepseekocr_2" if made.CASES[case].version == 2 else "deepseekocr"}


def expect_golden(folder: Path, case: str) -> None:
    graph = load_model(checkpoint.ModelRef(id="other names", path=folder), dtype="float32").graph
    logits, _ = graph.prefill(checkpoint.rows_of(case))
    np.testing.assert_allclose(contract.numbers(logits), checkpoint.golden_of(case)["logits"][:, 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["graph-small", "graph-queries"])
def test_an_mlx_conversion_is_read(case: str, tmp_path: Path) -> None:
    ours = build(made.config_of(case)).sanitize(checkpoint.tensors_of(case))
    theirs = {mlx_name(name): array for name, array in ours.items()}
    assert not set(theirs) & set(ours)
    if made.CASES[case].version == 1:
        theirs[UNUSED] = mx.zeros((32, 14, 14, 3))
    checkpoint.write_folder(tmp_path / "model", mlx_config(case), theirs)
    expect_golden(tmp_path / "model", case)


@pytest.mark.parametrize("case", ["graph-small", "graph-queries"])
def test_a_packed_mlx_conversion_is_read(case: str, tmp_path: Path) -> None:
    """Text and projector packed, the head with other bits under its own name in the record, towers left alone."""
    ours = build(made.config_of(case)).sanitize(checkpoint.tensors_of(case))
    record: dict[str, Any] = {"group_size": 32, "bits": 8, "mode": "affine"}
    theirs: dict[str, mx.array] = {}
    for name, array in ours.items():
        path = name.removesuffix(".weight")
        vision = name.startswith(("model.sam_model", "model.vision_model", "model.qwen2_model"))
        if vision or array.ndim < 2 or path.endswith("mlp.gate"):
            theirs[mlx_name(name)] = array
            continue
        bits = 4 if path == "lm_head" else 8
        for part, value in zip(("weight", "scales", "biases"), mx.quantize(array, 32, bits), strict=True):
            theirs[f"{mlx_name(path + '.weight').removesuffix('.weight')}.{part}"] = value
    record |= {mlx_name("lm_head"): {"group_size": 32, "bits": 4}}
    assert "language_model.model.layers.1.mlp.switch_mlp.up_proj.scales" in theirs
    checkpoint.write_folder(tmp_path / "model", mlx_config(case) | {"quantization": record}, theirs)
    ref = checkpoint.ModelRef(id="packed", path=tmp_path / "model")
    packed, plain = load_model(ref, dtype="float32"), load_model(ref)
    assert packed.bytes < 0.7 * plain.bytes
    rows = checkpoint.rows_of(case)
    found, expanded = (contract.numbers(model.graph.prefill(rows)[0]) for model in (packed, plain))
    np.testing.assert_allclose(found, expanded, rtol=0, atol=1e-3)
    assert np.abs(found - checkpoint.golden_of(case)["logits"][:, 0]).max() < 0.8


@pytest.mark.parametrize("case", ["graph-small", "graph-queries"])
def test_transformers_own_names_are_read(case: str, tmp_path: Path) -> None:
    """Split queries, experts in two stacks, towers under other names (recorded from transformers' own models)."""
    published = {name: np.array(array) for name, array in checkpoint.tensors_of(case).items()}
    names = json.loads((checkpoint.GOLDEN / case / "native.json").read_text())
    native = {name: mx.array(_native(source, published)) for name, source in names.items()}
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in native)
    assert {rename(rename(name)) for name in native} == {rename(name) for name in native}
    checkpoint.write_folder(tmp_path / "model", made.config_of(case), native)
    expect_golden(tmp_path / "model", case)


def _native(source: list[Any], published: dict[str, Any]) -> Any:
    if len(source) == 1:
        return published[source[0]]
    if isinstance(source[1], int):
        return np.split(published[source[0]], 3)[source[1]]
    parts = [published[name] for name in source]
    pairs = 2 if ".up_proj." in source[1] else 1
    return np.stack([np.concatenate(parts[at : at + pairs]) for at in range(0, len(parts), pairs)])


def test_an_expert_that_is_missing_is_named() -> None:
    graph = build(made.config_of("graph-small"))
    tensors = checkpoint.tensors_of("graph-small")
    del tensors["model.layers.2.mlp.experts.7.up_proj.weight"]
    with pytest.raises(WeightMismatch, match=r"model\.layers\.2\.mlp\.switch_mlp\.up_proj\.weight"):
        check_fit(graph, graph.sanitize(tensors))


def test_buffers_are_left_out() -> None:
    graph = build(made.config_of("graph-small"))
    extra = {
        "model.vision_model.embeddings.position_ids": mx.arange(17)[None],
        "model.layers.0.self_attn.rotary_emb.inv_freq": mx.zeros(8),
    }
    check_fit(graph, graph.sanitize(checkpoint.tensors_of("graph-small") | extra))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_model_type_is_this_familys(model_type: str) -> None:
    for architecture in ARCHITECTURES:
        assert family_for({"model_type": model_type, "architectures": [architecture]}).name == "deepseek_ocr"
