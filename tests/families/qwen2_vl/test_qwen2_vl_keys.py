"""Full-size names and shapes under every naming, and an adapter's, against the graph that is built and never computed."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from scripts import keys

from ocr_mlx.model.families.qwen2_vl.family import FAMILY, rename
from ocr_mlx.model.load import parameters
from tests.families import qwen2_vl_checkpoint as checkpoint

HERE = Path(__file__).parent
TABLE = (HERE / "keys.txt").read_text()
CONFIG: dict[str, Any] = json.loads((HERE / "config.json").read_text())
NAMINGS: tuple[checkpoint.Naming, ...] = ("published", "newer", "mlx")
VISION = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
TEXT = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def shapes(naming: checkpoint.Naming) -> dict[str, tuple[int, ...]]:
    """All tensors of a full-size checkpoint under that naming."""
    found = {checkpoint.renamed(name, naming): shape for name, shape in keys.expand(TABLE).items()}
    if naming == "mlx":
        found["vision_tower.patch_embed.proj.weight"] = (1280, 2, 14, 14, 3)
    return found


@pytest.mark.parametrize("naming", NAMINGS)
def test_graph_has_the_names_and_shapes(naming: checkpoint.Naming) -> None:
    before = mx.get_active_memory()
    graph = FAMILY.build(CONFIG)
    stored = graph.sanitize({rename(name): mx.zeros(shape) for name, shape in shapes(naming).items()})
    expected = {name: array.shape for name, array in parameters(graph).items()}  # type: ignore[arg-type]
    assert {name: array.shape for name, array in stored.items()} == expected
    assert mx.get_active_memory() - before < 50_000_000


def test_table_is_whole() -> None:
    found = keys.expand(TABLE)
    assert len(found) == 729
    assert sum(math.prod(shape) for shape in found.values()) == 2_208_985_600
    assert FAMILY.sizes["Qwen/Qwen2-VL-2B-Instruct"] == 2 * 2_208_985_600


def test_renaming_twice_is_once() -> None:
    for naming in NAMINGS:
        names = [rename(name) for name in shapes(naming)]
        assert names == list(shapes("published"))
        assert [rename(name) for name in names] == names
    assert rename("language_model.lm_head.scales") == rename("lm_head.scales") == "lm_head.scales"
    paths = ("vision_tower", "model.visual", "language_model.model.layers.3", "model.visually")
    assert [rename(path) for path in paths] == ["visual", "visual", "model.layers.3", "model.visually"]


@pytest.mark.parametrize("levels", [("visual", "model"), ("model.visual", "model.language_model")])
def test_an_adapters_layers_are_the_graphs(levels: tuple[str, str]) -> None:
    vision, text = levels
    paths = [f"{vision}.blocks.{number}.{name}" for number in range(32) for name in VISION]
    paths += [f"{text}.layers.{number}.{name}" for number in range(28) for name in TEXT]
    tensors = [f"base_model.model.{path}.lora_{side}.weight" for path in paths for side in "AB"]
    assert len(tensors) == 256 + 392 == 648
    layers = dict(FAMILY.build(CONFIG).named_modules())  # type: ignore[attr-defined]
    bare = {re.sub(r"\.lora_[AB]\.weight$", "", name.removeprefix("base_model.model.")) for name in tensors}
    found = {rename(path) for path in bare}
    assert len(found) == 324
    assert all(layers[path].weight.ndim == 2 for path in found)


@pytest.mark.parametrize(
    "base",
    [
        "unsloth/Qwen2-VL-2B-Instruct-unsloth-bnb-4bit",
        "unsloth/Qwen2-VL-2B-Instruct",
        "unsloth/Qwen2-VL-2B-Instruct-bnb-4bit",
        "unsloth/qwen2-vl-2b-instruct-unsloth-bnb-4bit",
    ],
)
def test_packed_bases_are_replaced(base: str) -> None:
    assert FAMILY.bases[base] == "Qwen/Qwen2-VL-2B-Instruct"


def test_published_table_is_the_committed_one(model_facts: Path) -> None:
    source = model_facts / "tensors" / "Qwen__Qwen2-VL-2B-Instruct(legacy-names).tsv"
    assert keys.compress(keys._read(source)) == TABLE


def test_the_communitys_table_is_covered(model_facts: Path) -> None:
    lines = (model_facts / "tensors" / "mlx__Qwen2-VL-2B.tsv").read_text().splitlines()
    told: Counter[tuple[str, str]] = Counter()
    for name, shape, count, *_ in (line.split("\t") for line in lines if line and not line.startswith("#")):
        told[name, shape] += int(count.removeprefix("x"))
    found = Counter((re.sub(r"(?<=\.)\d+(?=\.)", "N", name), str(list(shape))) for name, shape in shapes("mlx").items())
    assert found == told


def test_published_config_is_the_committed_one(model_facts: Path) -> None:
    source = model_facts / "configs" / "Qwen__Qwen2-VL-2B-Instruct" / "config.reconstructed.json"
    assert json.loads(source.read_text()) == CONFIG
