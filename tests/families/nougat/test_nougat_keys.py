"""The published checkpoints' names and shapes at full size, against graphs that are built and never computed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from scripts import keys

HERE = Path(__file__).parent
FLOATS = {"small": 247_383_672, "base": 348_687_992}


def table(size: str) -> str:
    return (HERE / f"keys-{size}.txt").read_text()


def config(size: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / f"config-{size}.json").read_text())
    return found


@pytest.mark.parametrize("size", FLOATS)
def test_graph_has_the_published_names_and_shapes(size: str) -> None:
    before = mx.get_active_memory()
    assert keys.disagreements(config(size), table(size)) == []
    assert mx.get_active_memory() - before < 50_000_000


@pytest.mark.parametrize(("size", "floats"), FLOATS.items())
def test_tables_are_whole(size: str, floats: int) -> None:
    assert sum(math.prod(shape) for shape in keys.expand(table(size)).values()) == floats


def test_another_config_disagrees() -> None:
    wrong = config("small")
    wrong["decoder"]["decoder_layers"] = 5
    wrong["encoder"]["window_size"] = 14
    found = keys.disagreements(wrong, table("small"))
    assert any(line.startswith("besides decoder.model.decoder.layers.4.") for line in found)
    assert any("relative_position_bias_table: (729, 4), not (169, 4)" in line for line in found)


def test_tables_come_back_from_their_names() -> None:
    shapes = keys.expand(table("base"))
    assert keys.expand(keys.compress(shapes)) == shapes
    assert len(keys.compress(shapes).splitlines()) < 150
    odd = {"a.1.x": (2,), "a.2.x": (2,), "a.4.x": (2,), "b.0.c.1.w": (1, 3), "plain": ()}
    assert keys.expand(keys.compress(odd)) == odd


def test_published_tables_are_the_committed_ones(model_facts: Path) -> None:
    for size in FLOATS:
        source = model_facts / "tensors" / f"facebook__nougat-{size}.tsv"
        assert keys.compress(keys._read(source)) == table(size)
