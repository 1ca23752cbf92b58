"""The scripts that compute README's figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from scripts import keys, sizes
from scripts.benchmark import checkpoint, families

from ocr_mlx.model import registry
from ocr_mlx.model.safetensors_file import read_tensors

FACTS = Path(__file__).parents[1] / "families"


def config(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FACTS / name).read_text())
    return found


def test_sixteen_bits_are_two_bytes_for_each_published_number() -> None:
    table = keys.expand((FACTS / "nougat/keys-small.txt").read_text())
    found = sizes.measure("facebook/nougat-small", config("nougat/config-small.json"))
    assert found.family == "nougat"
    assert found.weights[16] == 2 * sum(math.prod(shape) for shape in table.values())
    assert found.cache == 4 * 2 * 1024 * 2


def test_packed_layers_count_with_their_scales_and_the_others_in_full() -> None:
    family = registry.family_for(config("nougat/config-small.json"))
    graph: Any = family.build(config("nougat/config-small.json"))
    weights = sizes.measure("x", config("nougat/config-small.json")).weights
    packed = sum(
        module.weight.size
        for path, module in graph.named_modules()
        if hasattr(module, "to_quantized") and family.recipe(path, False) and module.weight.shape[-1] % 64 == 0
    )
    for bits in (4, 8):
        assert weights[bits] == weights[16] - packed * 2 + packed * bits // 8 + packed // 64 * 4


@pytest.mark.parametrize(
    ("name", "layers", "width"), [("lighton_ocr/config-2-1b.json", 28, 1024), ("qwen2_vl/config.json", 28, 256)]
)
def test_the_cache_counts_the_decoders_keys_and_values(name: str, layers: int, width: int) -> None:
    assert sizes.measure("x", config(name)).cache == layers * 2 * width * 2


def test_the_machine_has_room_for_the_weights_the_cache_and_some_work() -> None:
    made = sizes.Sizes(checkpoint="x", family="y", weights={16: 3_000_000_000, 8: 10**9, 4: 60 * 10**9}, cache=100_000)
    assert [made.machine(bits) for bits in (8, 16, 4)] == ["8 GB", "8 GB", "more than 64 GB"]
    more = sizes.Sizes(checkpoint="x", family="y", weights={16: 4_000_000_000}, cache=100_000)
    assert more.machine(16) == "16 GB"


def test_the_table_is_markdown(tmp_path: Path) -> None:
    folder = tmp_path / "facebook__nougat-small"
    folder.mkdir()
    (folder / "config.reconstructed.json").write_text(json.dumps(config("nougat/config-small.json")))
    (tmp_path / "nothing").mkdir()
    rows = [sizes.measure(*one) for one in sizes.published(tmp_path)]
    head, rule, row = sizes.table(rows).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") == 8
    assert row.startswith("| facebook/nougat-small | nougat | 0.49 GB | ")


def test_a_random_checkpoint_has_the_tables_names_in_bfloat16(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.write_text("a.{0..2}.weight\t[300, 400]\na.norm.weight\t[7]\na.bias\t[5]\n")
    checkpoint.write(tmp_path / "out", {"model_type": "x"}, table)
    found = read_tensors(tmp_path / "out" / "model.safetensors")
    assert {name: array.shape for name, array in found.items()} == keys.expand(table.read_text())
    assert {array.dtype for array in found.values()} == {mx.bfloat16}
    np.testing.assert_array_equal(found["a.norm.weight"].astype(mx.float32), np.ones(7))
    one, other = (np.array(found[f"a.{i}.weight"].astype(mx.float32)) for i in (0, 1))
    assert 0.019 < one.std() < 0.021 and abs(one.mean()) < 1e-3 and not np.array_equal(one, other)


def test_every_family_can_be_measured() -> None:
    assert families.names() == [family.name for family in registry.families()]
