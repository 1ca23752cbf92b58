"""Every stage of three tiny models against what transformers computed (scripts/reference.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.model.base import LoadedModel, ModelInputs
from ocr_mlx.model.families.qwen2_vl.positions import text_positions
from ocr_mlx.model.families.qwen2_vl.vision import merge_order
from ocr_mlx.model.load import load_model
from tests.families import contract
from tests.families import qwen2_vl_checkpoint as checkpoint
from tests.families import qwen2_vl_made as made

TOLERANCE = 1e-4
ROWS = [(case, row) for case in checkpoint.CASES for row in range(len(checkpoint.about(case)["rows"]))]
Golden = dict[str, np.ndarray[Any, Any]]
MODELS: dict[str, LoadedModel] = {}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    """Each case under another naming."""
    folder = tmp_path_factory.mktemp("models")
    namings = zip(checkpoint.CASES, ("published", "newer", "mlx"), strict=True)
    return {
        case: load_model(checkpoint.write(case, folder / case, naming), dtype="float32")  # type: ignore[arg-type]
        for case, naming in namings
    }


@pytest.fixture(params=ROWS, ids=lambda pair: f"{pair[0]}.{pair[1]}")
def pair(request: pytest.FixtureRequest) -> tuple[str, int]:
    found: tuple[str, int] = request.param
    return found


@pytest.fixture
def golden(pair: tuple[str, int]) -> Golden:
    return checkpoint.golden_of(pair[0])[pair[1]]


@pytest.fixture
def model(pair: tuple[str, int], models: dict[str, LoadedModel]) -> LoadedModel:
    return models[pair[0]]


@pytest.fixture
def row(pair: tuple[str, int], model: LoadedModel) -> ModelInputs:
    return checkpoint.rows_of(pair[0], model)[pair[1]]


def pictures(row: ModelInputs) -> list[mx.array]:
    assert row.pixels is not None
    return [mx.array(picture)[None] for picture in (row.pixels, *row.extras.values())]


def test_prompt_ids(row: ModelInputs, golden: Golden) -> None:
    assert list(row.token_ids) == golden["ids"].tolist()


def test_patches(pair: tuple[str, int], row: ModelInputs, golden: Golden) -> None:
    vision = checkpoint.config_of(pair[0])["vision_config"]
    orders = [
        np.array(merge_order(picture, vision["patch_size"], vision["spatial_merge_size"]))[0].transpose(0, 3, 1, 2)
        for picture in pictures(row)
    ]
    patches = np.concatenate([np.repeat(order[:, :, None], 2, axis=2).reshape(len(order), -1) for order in orders])
    np.testing.assert_array_equal(made.sample(patches, 1500), golden["patches"])


def test_tower_and_merger(row: ModelInputs, model: LoadedModel, golden: Golden) -> None:
    tower: Any = model.graph.visual  # type: ignore[attr-defined]
    features = np.concatenate([np.array(tower.features(picture))[0] for picture in pictures(row)])
    np.testing.assert_allclose(made.sample(features, 4000), golden["vision"], rtol=0, atol=TOLERANCE)
    merged = np.concatenate([np.array(tower(picture))[0] for picture in pictures(row)])
    np.testing.assert_allclose(merged, golden["merged"], rtol=0, atol=TOLERANCE)


def test_positions(pair: tuple[str, int], row: ModelInputs, golden: Golden) -> None:
    merge = checkpoint.config_of(pair[0])["vision_config"]["spatial_merge_size"]
    grids = [(high // merge, wide // merge) for _, high, wide in golden["grids"].tolist()]
    positions, shift = text_positions(row.token_ids, made.mark("<|image_pad|>"), grids)
    np.testing.assert_array_equal(positions, golden["positions"])
    assert shift == golden["shift"].item()


def test_teacher_forced_logits(row: ModelInputs, model: LoadedModel, golden: Golden) -> None:
    first, state = model.graph.prefill([row])
    rest = model.graph.decode(mx.array(golden["forced"])[None], state)
    np.testing.assert_allclose(contract.joined(first, rest)[0], golden["logits"], rtol=0, atol=TOLERANCE)


def test_greedy_ids(row: ModelInputs, model: LoadedModel, golden: Golden) -> None:
    ids, _ = contract.greedy(model.graph, [row], len(golden["greedy"]))
    assert ids[0].tolist() == golden["greedy"].tolist()


@pytest.mark.parametrize("case", checkpoint.CASES)
def test_rows_of_different_sizes_decode_together(case: str, models: dict[str, LoadedModel]) -> None:
    model, goldens = models[case], checkpoint.golden_of(case)
    states, last = [], []
    for row in checkpoint.rows_of(case, model):
        logits, state = model.graph.prefill([row])
        states.append(state)
        last.append(contract.numbers(logits)[0])
    together = states[0]
    for state in states[1:]:
        together.merge(state)
    ids = [np.stack(last).argmax(-1)]
    for _ in range(29):
        logits = contract.numbers(model.graph.decode(mx.array(ids[-1][:, None]), together))
        ids.append(logits[:, 0].argmax(-1))
    for found, golden in zip(np.stack(ids, 1), goldens, strict=True):
        assert found.tolist() == golden["greedy"][:30].tolist()


def test_goldens_hold_what_they_are_for() -> None:
    rows = [golden for case in checkpoint.CASES for golden in checkpoint.golden_of(case)]
    shifts = [golden["shift"].item() for golden in rows]
    assert min(shifts) < -20 < max(shifts) == 0
    assert {len(golden["grids"]) for golden in rows} == {1, 2, 3}
    assert max(len(golden["greedy"]) for golden in rows) >= 300
    heads = {case: checkpoint.build(checkpoint.config_of(case)) for case in checkpoint.CASES}
    assert ["lm_head" in heads[case] for case in ("flat", "pictures", "long_decode")] == [False, True, True]


def test_positions_matter(models: dict[str, LoadedModel]) -> None:
    model, golden = models["flat"], checkpoint.golden_of("flat")[0]
    _, state = model.graph.prefill([checkpoint.rows_of("flat", model)[0]])
    state.shifts = [0]  # type: ignore[attr-defined]
    found = contract.numbers(model.graph.decode(mx.array(golden["forced"])[None], state))[0]
    assert np.abs(found - golden["logits"][1:]).max() > 100 * TOLERANCE


def test_pictures_of_one_size_share_a_pass(models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["pictures"]
    rows = [checkpoint.row_of(model, [[64, 64], [64, 64]], "one", name) for name in ("", "a", "b")]
    alone = [contract.numbers(model.graph.prefill([row])[0])[0] for row in rows]
    seen: list[tuple[int, ...]] = []
    tower = type(model.graph.visual)  # type: ignore[attr-defined]
    call = tower.__call__
    monkeypatch.setattr(tower, "__call__", lambda self, pixels: seen.append(pixels.shape) or call(self, pixels))
    together = contract.numbers(model.graph.prefill(rows)[0])
    assert [shape[0] for shape in seen] == [6]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_many_pictures_take_turns(models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["pictures"]
    rows = [checkpoint.row_of(model, [[64, 64], [33, 90]], "one", name) for name in ("", "a", "b")]
    whole = contract.numbers(model.graph.prefill(rows)[0])
    monkeypatch.setattr("ocr_mlx.model.families.qwen2_vl.model._PATCHES_AT_ONCE", 1)
    np.testing.assert_allclose(contract.numbers(model.graph.prefill(rows)[0]), whole, rtol=0, atol=1e-5)


def test_text_alone_is_read(models: dict[str, LoadedModel]) -> None:
    graph = models["flat"].graph
    logits, state = graph.prefill([ModelInputs(token_ids=(5, 6, 7), pixels=None)])
    assert logits.shape == (1, 300)
    assert state.shifts == [0]  # type: ignore[attr-defined]


def test_a_prompt_without_room_for_the_picture_is_refused(models: dict[str, LoadedModel]) -> None:
    graph, mark = models["flat"].graph, made.mark("<|image_pad|>")
    picture = np.zeros((28, 56, 3), np.float32)
    for ids in ((5, 6), (5, mark), (mark, mark, mark), (mark, 5, mark)):
        with pytest.raises(ValueError, match="picture"):
            graph.prefill([ModelInputs(token_ids=ids, pixels=picture)])


@pytest.mark.parametrize("check", contract.CHECKS, ids=contract.name)
@pytest.mark.parametrize("case", ["flat", "pictures"])
def test_contract(check: object, case: str, tmp_path: Path, models: dict[str, LoadedModel]) -> None:
    sizes = [[61, 90]] if case == "flat" else [[64, 64], [40, 70]]
    subject = contract.Subject(
        ref=checkpoint.write(case, tmp_path / "model"),
        rows=[checkpoint.row_of(models[case], sizes, "Read.", name) for name in ("", "a", "b")],
        declaration="ocr_mlx.model.families.qwen2_vl.family",
        scratch=tmp_path,
        group_size=32,
    )
    check(subject)  # type: ignore[operator]


@pytest.mark.parametrize(("dtype", "expected"), [("float16", mx.float16), ("bfloat16", mx.bfloat16)])
def test_half_precision_stays_half(dtype: str, expected: mx.Dtype, tmp_path: Path) -> None:
    model = load_model(checkpoint.write("flat", tmp_path / "model"), dtype=dtype)
    logits, state = model.graph.prefill(checkpoint.rows_of("flat", model)[:1])
    again = model.graph.decode(mx.zeros((1, 1), dtype=mx.int32), state)
    assert {logits.dtype, again.dtype, *(array.dtype for array in state.arrays())} == {expected}
    golden = checkpoint.golden_of("flat")[0]["logits"][0]
    assert np.abs(contract.numbers(logits)[0] - golden).max() < 0.5
