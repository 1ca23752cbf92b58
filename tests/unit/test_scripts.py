"""The scripts that compute README's figures."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from scripts import bench_server, keys, sizes
from scripts.benchmark import checkpoint, families, memory, nougat, pieces, plain_nougat, tables, talk, targets, vlm

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


def test_a_decode_step_reads_the_head_the_layers_and_its_share_of_the_experts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_BLOCK", 1000)
    shapes = {
        "tower.weight": (1000, 1000),
        "model.embed_tokens.weight": (500, 10),
        "model.layers.0.mlp.experts.0.up_proj.weight": (40, 10),
        "model.layers.0.mlp.experts.1.up_proj.weight": (40, 10),
        "model.layers.0.self_attn.q_proj.weight": (10, 10),
    }
    table = tmp_path / "table"
    config = {"language_config": {"num_experts_per_tok": 1, "n_routed_experts": 2}}
    table.write_text("".join(f"{name}\t{list(shape)}\n" for name, shape in shapes.items()))
    checkpoint.write(tmp_path / "tied", config, table)
    assert memory.step_megabytes(tmp_path / "tied", ("tower",), ".experts.") == pytest.approx((5000 + 400 + 100) * 4e-6)
    table.write_text(table.read_text() + "lm_head.weight\t[500, 10]\n")
    checkpoint.write(tmp_path / "own", config, table)
    assert memory.step_megabytes(tmp_path / "own", ("tower",), ".experts.") == pytest.approx((5000 + 400 + 100) * 4e-6)


def test_a_step_is_held_against_the_fastest_way_to_read() -> None:
    found = memory.step_figures(400.0, {"slow": 5.0, "fast": 20.0}, 0.03)
    assert found["floor_ms"] == pytest.approx(20.0)
    assert found["times"] == pytest.approx(1.5)
    assert all(speed > 0 for speed in memory.read_speeds(megabytes=1, runs=1).values())


@pytest.fixture(scope="module")
def tiny_nougat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nougat")
    nougat.make_checkpoint(folder, tiny=True)
    return folder


def test_the_plain_port_computes_what_ours_does(tiny_nougat: Path) -> None:
    calls = nougat.calls_ours(tiny_nougat, blas=True, plain=True)
    assert calls["difference"]() < nougat.NEAR
    for side in ("ours", "plain"):
        page = calls[f"{side}_rows"](count=1, tokens=3)
        assert 0 < page["first"] < page["seconds"]
        assert calls[f"{side}_vision"]() > 0
    assert calls["about"]()["step_mb"] > 0


def test_a_profile_knows_every_piece_of_a_pass(tiny_nougat: Path) -> None:
    before = nn.Linear.__call__
    found = nougat.calls_ours(tiny_nougat, blas=True, plain=False)["profile"]()
    assert nn.Linear.__call__ is before
    for part, named in (("vision", pieces.VISION), ("step", pieces.STEP)):
        assert found[part].keys() == named.keys() | {"rest", "whole"}
        assert sum(ms > 0 for piece, ms in found[part].items() if piece in named) >= 3


def test_a_yardstick_that_computes_something_else_is_refused(
    tiny_nougat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_nougat, "_OFFSET", 3)
    calls = nougat.calls_ours(tiny_nougat, blas=True, plain=True)

    class Here:
        def ask(self, call: str, **options: Any) -> Any:
            return calls[call](**options)

    ours: Any = Here()
    with pytest.raises(RuntimeError, match="no yardstick"):
        nougat.measure(ours, None, tokens=3, rounds=1)


def test_sides_answer_and_one_that_ends_says_so() -> None:
    code = (
        "from scripts.benchmark.talk import answer\n"
        "def add(a, b):\n    print('noise')\n    return a + b\n"
        "answer({'add': add, 'end': lambda: exit(3)})"
    )
    root = str(Path(__file__).parents[2])
    with talk.Child([sys.executable, "-c", code], os.environ | {"PYTHONPATH": root}) as child:
        assert child.ask("add", a=2, b=3) == 5
        with pytest.raises(RuntimeError, match="status 3"):
            child.ask("end")


def test_a_peers_copy_has_other_names_and_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_BLOCK", 1000)
    table = tmp_path / "table"
    table.write_text("old.weight\t[3, 5]\nnorm.weight\t[7]\n")
    checkpoint.write(tmp_path, {"model_type": "x"}, table)
    other = vlm.folder_with(tmp_path, {"model_type": "y"}, lambda name: name.replace("old", "renewed"))
    before, after = (read_tensors(folder / "model.safetensors") for folder in (tmp_path, other))
    assert after.keys() == {"renewed.weight", "norm.weight"}
    assert mx.array_equal(after["renewed.weight"], before["old.weight"])
    assert json.loads((other / "config.json").read_text()) == {"model_type": "y"}


FIGURES: dict[str, Any] = {
    "nougat": {
        "ours": {"vision_seconds": 2.0, "tokens_per_second": 30.0},
        "plain": {"vision_seconds": 5.0, "tokens_per_second": 25.0},
        "torch": {"vision_seconds": 1.9, "tokens_per_second": 29.0},
    },
    "batch": {"tokens": 200, "ours": {"pages_per_second": 0.1, "batch_pages_per_second": 0.31}},
    "step": {"step_ms": 30.0, "floor_ms": 15.0, "times": 2.0, "step_mb": 400.0, "speeds": {"sums": 20.0}},
    "families": {
        "one": {
            "ours": {"first_token_seconds": 10.0, "tokens_per_second": 4.0, "first_tokens": [1, 2]},
            "mlx-vlm": {"first_token_seconds": 12.0, "tokens_per_second": 2.0, "first_tokens": [1, 3]},
            "transformers": {"tokens_per_second": 5.0},
        },
        "two": {
            "ours": {"first_token_seconds": 1.0, "tokens_per_second": 4.0},
            "mlx-vlm": {"note": "has no such model"},
        },
    },
    "livez": {
        "built-in": {
            "clients": 8,
            "pages": 9,
            "load": {"p50_ms": 1.0, "p99_ms": 60.0, "max_ms": 80.0, "late_p99_ms": 2.0},
            "idle": {"p99_ms": 1.0},
        }
    },
}


def test_aims_are_ratios_and_say_whether_they_are_reached() -> None:
    rows = {(row.what, row.against): row for row in targets.rows(FIGURES)}
    reached = {
        (what.partition(",")[0], against): row.reached for (what, against), row in rows.items() if "page" not in what
    }
    assert rows["Nougat-small, vision pass of one page", "the plain port"].ratio == 2.5
    assert rows["Nougat-small, one page, decoding", "the plain port"].ratio == pytest.approx(1.2)
    assert not rows["Nougat-small, one page, decoding", "the plain port"].reached
    assert rows["Nougat-small, 8 pages of 200 tokens as one batch", "itself one by one"].reached
    assert rows["one, first token", "mlx-vlm"].ratio == pytest.approx(1.2)
    assert not rows["one, decoding", "transformers"].reached
    assert not reached["decode step", "reading its weights once"]
    assert not reached["/livez p99", "-"]
    assert not any(what.startswith("two") for what, _ in rows)


def test_the_aims_and_the_figures_are_markdown() -> None:
    head, rule, *rows = targets.report(FIGURES).splitlines()
    assert len(rows) == len(targets.rows(FIGURES))
    assert {line.count("|") for line in (head, rule, *rows)} == {8}
    assert targets.report({}) == tables.report({}) == ""
    told = tables.report(FIGURES)
    assert "- mlx-vlm: has no such model" in told
    assert "says other tokens than ours: [1, 3], not [1, 2]" in told


def test_the_last_of_a_hundred_is_not_its_p99() -> None:
    ordered = [float(i) for i in range(1, 1001)]
    assert bench_server._share(ordered, 0.99) == 991.0
    assert bench_server._share([4.0], 0.99) == 4.0


@pytest.mark.slow
@pytest.mark.process
def test_the_server_is_asked_while_it_reads() -> None:
    found = bench_server.measure("builtin", seconds=0.8, clients=2, every=0.02, idle=0.1)
    assert found["load"]["count"] > 5
    assert 0 < found["load"]["p50_ms"] <= found["load"]["p99_ms"] <= found["load"]["max_ms"]
    assert "| load |" in bench_server.report(found)
