"""The published checkpoints' names and shapes at full size, against a graph that is built and never computed."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from scripts import keys

from ocr_mlx.model.families.got_ocr2.names import rename
from ocr_mlx.model.load import parameters
from ocr_mlx.model.registry import family_for
from tests.families import got_made

HERE = Path(__file__).parent
FLOATS = 560_528_640
HEAD = {"lm_head.weight": (151_860, 1024)}
NAMINGS: dict[str, tuple[str, Callable[[str], str]]] = {
    "published": ("stepfun-ai__GOT-OCR-2.0-hf(published-names)", got_made.published),
    "transformers": ("stepfun-ai__GOT-OCR-2.0-hf", str),
    "original": ("stepfun-ai__GOT-OCR2_0", got_made.original),
    "community": ("mlx__GOT-OCR2_0", got_made.community),
}
"""Where the facts lie, and what makes the names out of transformers 5's."""
CONFIGS: dict[str, dict[str, Any]] = {
    "published": {
        "model_type": "got_ocr2",
        "text_config": {"model_type": "qwen2", "vocab_size": 151860, "tie_word_embeddings": True},
        "vision_config": {"model_type": ""},
    },
    "original": {"model_type": "GOT", "hidden_size": 1024, "num_hidden_layers": 24, "vocab_size": 151860},
}
Shapes = dict[str, tuple[int, ...]]


def current() -> Shapes:
    """All tensors of the published size under transformers 5's names."""
    return {_current(name): shape for name, shape in keys.expand((HERE / "keys-published.txt").read_text()).items()}


def _current(published: str) -> str:
    if published.startswith("language_model.model."):
        return published.replace("language_model.model.", "model.language_model.", 1)
    return f"model.{published}"


def named(naming: str) -> Shapes:
    """The same under another naming and in its layouts, with the head where it has one."""
    _, name_of = NAMINGS[naming]
    shapes = current() | (HEAD if naming in ("original", "transformers") else {})
    if naming == "community":
        shapes = {name: _channels_last(shape, name) for name, shape in shapes.items()}
    return {name_of(name): shape for name, shape in shapes.items()}


def _channels_last(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 and "pos_embed" not in name else shape


def disagreements(config: Mapping[str, Any], shapes: Shapes) -> list[str]:
    """What the graph lacks, has besides, or has in other shapes."""
    graph: Any = family_for(config).build(config)
    stored = graph.sanitize({rename(name): mx.zeros(shape) for name, shape in shapes.items()})
    has = {name: array.shape for name, array in parameters(graph).items()}
    wants = {name: array.shape for name, array in stored.items()}
    return sorted(name for name in has.keys() | wants.keys() if has.get(name) != wants.get(name))


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("config", CONFIGS)
def test_graph_has_the_published_names_and_shapes(naming: str, config: str) -> None:
    before = mx.get_active_memory()
    assert disagreements(CONFIGS[config], named(naming)) == []
    assert mx.get_active_memory() - before < 50_000_000


def test_tables_are_whole() -> None:
    original = keys.expand((HERE / "keys-original.txt").read_text())
    assert named("original") == original
    assert sum(math.prod(shape) for shape in current().values()) == FLOATS
    assert len(original) == len(current()) + 1 == 472


def test_another_config_disagrees() -> None:
    wrong = CONFIGS["published"] | {"vision_config": {"window_size": 16}, "text_config": {"num_hidden_layers": 25}}
    found = disagreements(wrong, named("published"))
    assert "model.vision_tower_high.blocks.0.attn.rel_pos_h" in found
    assert "model.layers.24.mlp.down_proj.weight" in found


@pytest.mark.parametrize("naming", NAMINGS)
def test_names_of_all_namings_become_the_originals(naming: str) -> None:
    name_of = NAMINGS[naming][1]
    for name in (*current(), *HEAD):
        wanted = got_made.original(name)
        assert rename(name_of(name)) == rename(wanted) == wanted
        for packed in ("scales", "biases"):
            end = name.rpartition(".")[2]
            assert rename(name_of(name).removesuffix(end) + packed) == wanted.removesuffix(end) + packed


@pytest.mark.parametrize("naming", NAMINGS)
def test_names_of_modules_too(naming: str) -> None:
    name_of = NAMINGS[naming][1]
    for name in current():
        if name.endswith(".weight"):
            module = name_of(name).removesuffix(".weight")
            assert rename(module) == got_made.original(name).removesuffix(".weight")


@pytest.mark.parametrize(
    "name", ["bits", "group_size", "mode", "lm_head", "model.norm.weight", "model.layers.0.mlp.up_proj"]
)
def test_other_names_stay(name: str) -> None:
    assert rename(name) == name


@pytest.mark.parametrize("naming", NAMINGS)
def test_known_tables_say_the_same(naming: str, model_facts: Path) -> None:
    ours: Counter[tuple[str, str]] = Counter()
    for name, shape in named(naming).items():
        ours[re.sub(r"(?<=\.)\d+(?=\.)", "N", name), str(list(shape))] += 1
    theirs: Counter[tuple[str, str]] = Counter()
    for line in (model_facts / "tensors" / f"{NAMINGS[naming][0]}.tsv").read_text().splitlines():
        if line and not line.startswith("#"):
            name, shape_text, *rest = line.split("\t")
            theirs[name, shape_text] += next(int(word[1:]) for word in rest if re.fullmatch(r"x\d+", word))
    assert ours == theirs


def test_published_configs_are_read(model_facts: Path) -> None:
    for path in sorted((model_facts / "configs").glob("stepfun-ai__GOT*/config*.json")):
        config = json.loads(path.read_text())
        assert disagreements(config, named("published")) == [], path
        assert family_for(config).build(config).max_positions == 32768
