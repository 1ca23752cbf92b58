"""Every stage of five tiny models against what transformers computed (scripts/reference.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.model.base import LoadedModel, ModelInputs
from ocr_mlx.model.families.deepseek_ocr import encoder
from ocr_mlx.model.load import load_model
from tests.families import contract
from tests.families import deepseek_checkpoint as checkpoint
from tests.families import deepseek_made as made

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=checkpoint.CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(case: str, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(checkpoint.write(case, tmp_path_factory.mktemp(case) / "model"), dtype="float32")


def body(model: LoadedModel) -> Any:
    return model.graph.model  # type: ignore[attr-defined]


def pictures(case: str) -> dict[str, mx.array]:
    facts = made.CASES[case]
    tiles = made.tiles(facts, 1)
    found = {"view": mx.array(made.views(facts, 1)[0])[None]}
    return found | ({"tiles": mx.array(tiles[0][:1])} if tiles else {})


def near(found: mx.array, expected: np.ndarray[Any, Any]) -> None:
    np.testing.assert_allclose(contract.numbers(found), expected, rtol=0, atol=TOLERANCE)


def test_sam(case: str, model: LoadedModel) -> None:
    golden = checkpoint.golden_of(case)
    for kind, pixels in pictures(case).items():
        near(body(model).sam_model(pixels)[..., :: made.EVERY], golden[f"sam.{kind}"])


def test_encoder_behind_sam(case: str, model: LoadedModel) -> None:
    golden, towers = checkpoint.golden_of(case), body(model)
    behind = towers.qwen2_model if "qwen2_model" in towers else towers.vision_model
    for kind, pixels in pictures(case).items():
        near(behind(towers.sam_model(pixels))[..., :: made.EVERY], golden[f"encoder.{kind}"])


def test_features_in_order(case: str, model: LoadedModel) -> None:
    found = encoder.read_pictures(body(model), checkpoint.rows_of(case))
    near(found[..., :: made.EVERY], checkpoint.golden_of(case)["features"])


def test_teacher_forced_logits(case: str, model: LoadedModel) -> None:
    first, state = model.graph.prefill(checkpoint.rows_of(case))
    rest = model.graph.decode(mx.array(made.forced(made.CASES[case])), state)
    found = contract.joined(first, rest)
    np.testing.assert_allclose(found, checkpoint.golden_of(case)["logits"], rtol=0, atol=TOLERANCE)


def test_greedy_ids(case: str, model: LoadedModel) -> None:
    expected = checkpoint.golden_of(case)["greedy"]
    ids, _ = contract.greedy(model.graph, checkpoint.rows_of(case), expected.shape[1])
    np.testing.assert_array_equal(ids, expected)


def test_goldens_hold_what_they_are_for() -> None:
    grids = {name: facts.grid for name, facts in made.CASES.items()}
    assert grids["graph-tiles"] == (2, 3)
    assert {facts.version for facts in made.CASES.values() if facts.grid == (0, 0)} == {1, 2}
    assert {facts.version for facts in made.CASES.values() if facts.rows > 1} == {1, 2}
    sides = {name: (facts.view, facts.tile) for name, facts in made.CASES.items() if facts.version == 1}
    tables = {name: made.CASES[name].config["vision_config"]["sam_config"]["image_size"] for name in sides}
    assert [np.sign(sides[name][0] - tables[name]) for name in sides] == [0, 1, -1, -1]
    assert made.WINDOW < made.FORCED < made.GREEDY
    assert all(checkpoint.golden_of(name)["features"].shape[1] == facts.features for name, facts in made.CASES.items())


STATES = (
    contract.check_steps_equal_one_pass,
    contract.check_rows_join_and_leave,
    contract.check_shorter_state_takes_longer_one,
    contract.check_trimmed_tokens_are_forgotten,
    contract.check_drafts_are_verified_row_by_row,
    contract.check_trim_right_after_merge_and_keep,
    contract.check_copies_of_a_row_go_their_own_way,
    contract.check_passes_of_one_width_are_exact,
)
"""What a window could break."""


@pytest.mark.parametrize(
    ("name", "check"),
    [(name, check) for name in ("graph-tiles", "graph-queries") for check in contract.CHECKS]
    + [("graph-window", check) for check in STATES],
    ids=lambda value: value if isinstance(value, str) else contract.name(value),
)
def test_contract(name: str, check: Any, tmp_path: Path) -> None:
    subject = contract.Subject(
        ref=checkpoint.write(name, tmp_path / "model"),
        rows=checkpoint.rows_of(name, 3),
        declaration="ocr_mlx.model.families.deepseek_ocr.family",
        scratch=tmp_path,
        group_size=32,
    )
    check(subject)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    ref = checkpoint.write("graph-tiles", tmp_path_factory.mktemp("tiled") / "model")
    return load_model(ref, dtype="float32")


def test_pictures_go_through_the_towers_together_and_in_groups(
    tiled: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, sizes = checkpoint.rows_of("graph-tiles", 3), []
    encode = encoder.encode

    def counted(module: Any, pixels: mx.array) -> mx.array:
        sizes.append(pixels.shape[:2])
        return encode(module, pixels)

    monkeypatch.setattr(encoder, "encode", counted)
    together = contract.numbers(encoder.read_pictures(body(tiled), rows))
    assert sizes == [(3, 128), (18, 96)]
    monkeypatch.setattr(encoder, "_PIXELS_AT_ONCE", 5 * 96 * 96)
    sizes.clear()
    grouped = contract.numbers(encoder.read_pictures(body(tiled), rows))
    assert sizes == [(2, 128), (1, 128), (5, 96), (5, 96), (5, 96), (3, 96)]
    np.testing.assert_allclose(grouped, together, rtol=0, atol=1e-5)


def test_tiles_are_joined_line_by_line_and_come_before_the_view(tiled: LoadedModel) -> None:
    towers, width = body(tiled), 64
    newline, separator = (contract.numbers(towers[name]) for name in ("image_newline", "view_seperator"))
    tiles = mx.arange(2 * 4, dtype=mx.float32).reshape(2, 4, 1) + mx.zeros((2, 4, width))
    view = mx.array([[-1.0], [-2.0], [-3.0], [-4.0]]) + mx.zeros((4, width))
    across = contract.numbers(encoder.assemble(towers, view, tiles, (2, 1)))
    down = contract.numbers(encoder.assemble(towers, view, tiles, (1, 2)))
    assert _order(across, newline, separator) == [0, 1, 4, 5, "n", 2, 3, 6, 7, "n", -1, -2, "n", -3, -4, "n", "s"]
    assert _order(down, newline, separator) == [
        *(0, 1, "n", 2, 3, "n", 4, 5, "n", 6, 7, "n"),
        *(-1, -2, "n", -3, -4, "n", "s"),
    ]
    with pytest.raises(ValueError, match="2 tiles are not 2 x 2"):
        encoder.assemble(towers, view, tiles, (2, 2))


def _order(found: Any, newline: Any, separator: Any) -> list[int | str]:
    names = [("n", newline), ("s", separator)]
    return [next((name for name, value in names if (row == value).all()), int(row[0])) for row in found]


def test_rows_that_cannot_be_read_are_refused(tiled: LoadedModel) -> None:
    row = checkpoint.rows_of("graph-tiles")[0]
    with pytest.raises(ValueError, match="needs a picture"):
        tiled.graph.prefill([ModelInputs(token_ids=(0,), pixels=None)])
    short = ModelInputs(token_ids=row.token_ids[:40], pixels=row.pixels, extras=row.extras)
    with pytest.raises(ValueError, match="39"):
        tiled.graph.prefill([short])


def test_there_are_queries_for_two_sizes_only(tmp_path: Path) -> None:
    graph = load_model(checkpoint.write("graph-queries", tmp_path / "model"), dtype="float32").graph
    odd = ModelInputs(token_ids=(0,), pixels=np.zeros((160, 160, 3), np.float32))
    with pytest.raises(ValueError, match="144 or 256 features of a picture, not for 100"):
        graph.prefill([odd])


@pytest.mark.parametrize("name", ["graph-tiles", "graph-queries"])
@pytest.mark.parametrize(
    ("dtype", "expected", "allowed"), [("float16", mx.float16, 0.2), ("bfloat16", mx.bfloat16, 1.0)]
)
def test_half_precision_stays_half(dtype: str, expected: mx.Dtype, allowed: float, name: str, tmp_path: Path) -> None:
    graph = load_model(checkpoint.write(name, tmp_path / "model"), dtype=dtype).graph
    rows = checkpoint.rows_of(name)
    logits, state = graph.prefill(rows)
    again = graph.decode(mx.zeros((len(rows), 1), dtype=mx.int32), state)
    mx.eval(again)  # some kernels have float32 only, and say so here
    assert {logits.dtype, again.dtype, *(array.dtype for array in state.arrays())} == {expected}
    assert np.abs(contract.numbers(logits) - checkpoint.golden_of(name)["logits"][:, 0]).max() < allowed


def test_unlimited_ocr_forgets_what_it_wrote_but_not_the_prompt(tmp_path: Path) -> None:
    """Rows of prompts of different lengths, together, go on as each alone; and forgetting changes the numbers."""
    ref = checkpoint.write("graph-window", tmp_path / "model")
    graph = load_model(ref, dtype="float32").graph
    longer, other = checkpoint.rows_of("graph-window")
    shorter = replace(other, token_ids=other.token_ids[:-2])
    tokens = mx.array(made.forced(made.CASES["graph-window"]))
    alone = []
    for index, row in enumerate((longer, shorter)):
        _, state = graph.prefill([row])
        alone.append(contract.numbers(graph.decode(tokens[index : index + 1], state))[0])
    _, together = graph.prefill([longer])
    _, late = graph.prefill([shorter])
    together.merge(late)
    steps = [contract.numbers(graph.decode(tokens[:, at : at + 4], together)) for at in (0, 4, 8)]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), alone, rtol=0, atol=TOLERANCE)
    graph._window = None  # type: ignore[attr-defined]
    _, state = graph.prefill([longer])
    plain = contract.numbers(graph.decode(tokens[:1], state))[0]
    np.testing.assert_allclose(plain[: made.WINDOW], alone[0][: made.WINDOW], rtol=0, atol=TOLERANCE)
    assert np.abs(plain - alone[0])[made.WINDOW :].max() > 0.01


def test_states_of_other_graphs_are_refused(tiled: LoadedModel) -> None:
    _, state = tiled.graph.prefill(checkpoint.rows_of("graph-tiles"))
    foreign = body(tiled).new_state(2)
    with pytest.raises(TypeError, match="same graph"):
        state.merge(foreign)
    with pytest.raises(TypeError, match="another graph"):
        tiled.graph.decode(mx.zeros((2, 1), dtype=mx.int32), foreign)
