"""Every stage of four tiny models against what transformers computed (scripts/reference.py)."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.domain import Quantization
from ocr_mlx.model.base import DecodeState, LoadedModel, ModelInputs
from ocr_mlx.model.load import load_model
from tests.families import contract
from tests.families import lighton_checkpoint as made

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=made.CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(case: str, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(made.write(case, tmp_path_factory.mktemp(case) / "model"), dtype="float32")


def close(found: mx.array, expected: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    np.testing.assert_allclose(contract.numbers(found), expected, rtol=0, atol=TOLERANCE)


def test_vision_and_features(case: str, model: LoadedModel) -> None:
    golden, parts = made.golden_of(case), model.graph.model  # type: ignore[attr-defined]
    for number, picture in enumerate(picture for row in made.pictures_of(case) for picture in row):
        patches = parts.vision_encoder(mx.array(picture)[None])
        close(patches.reshape(-1, patches.shape[-1]), golden[f"vision.{number}"])
        close(parts.vision_projection(patches)[0], golden[f"features.{number}"])


def test_teacher_forced_logits(case: str, model: LoadedModel) -> None:
    golden = made.golden_of(case)
    for index, row in enumerate(made.rows_of(case)):
        first, state = model.graph.prefill([row])
        rest = model.graph.decode(mx.array(golden[f"forced.{index}"][None]), state)
        np.testing.assert_allclose(
            contract.joined(first, rest)[0], golden[f"logits.{index}"], rtol=0, atol=TOLERANCE, err_msg=str(index)
        )


def test_greedy_ids_of_rows_that_decode_together(case: str, model: LoadedModel) -> None:
    golden, rows = made.golden_of(case), made.rows_of(case)
    expected = np.stack([golden[f"greedy.{index}"] for index in range(len(rows))])
    logits, state = together(model, rows)
    found = [logits.argmax(-1)]
    for _ in range(expected.shape[1] - 1):
        logits = contract.numbers(model.graph.decode(mx.array(found[-1][:, None]), state)[:, 0])
        found.append(logits.argmax(-1))
    np.testing.assert_array_equal(np.stack(found, 1), expected)


def together(model: LoadedModel, rows: list[ModelInputs]) -> tuple[contract.Logits, DecodeState]:
    started = [model.graph.prefill([row]) for row in rows]
    state = started[0][1]
    for _, other in started[1:]:
        state.merge(other)
    return np.concatenate([contract.numbers(logits) for logits, _ in started]), state


def test_goldens_hold_what_they_are_for() -> None:
    configs = {case: made.config_of(case) for case in made.CASES}
    assert len(configs) >= 3
    rows = {case: config["case"]["rows"] for case, config in configs.items()}
    assert any(len(row) > 1 and row[0] != row[1] for row in rows["untied"])
    ratios = {
        c["text_config"]["num_attention_heads"] // c["text_config"]["num_key_value_heads"] for c in configs.values()
    }
    assert ratios == {1, 2, 3, 4}
    assert {config["spatial_merge_size"] for config in configs.values()} == {1, 2, 3}
    assert [case for case in made.CASES if "lm_head.weight" in made.tensors_of(case)] == ["untied"]
    assert {config["model_type"] for config in configs.values()} == {"mistral3", "lighton_ocr"}
    assert len(made.golden_of("long_decode")["greedy.0"]) == 300


def test_many_pictures_equal_one(model: LoadedModel, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [row.pixels for row in made.alike(case, 3) if row.pixels is not None]
    graph = model.graph
    whole = contract.numbers(graph.see(pictures))  # type: ignore[attr-defined]
    alone = np.concatenate([contract.numbers(graph.see([p])) for p in pictures])  # type: ignore[attr-defined]
    np.testing.assert_allclose(whole, alone, rtol=0, atol=1e-5)
    high, wide, _ = pictures[0].shape
    monkeypatch.setattr("ocr_mlx.model.families.lighton_ocr.model._PIXELS_AT_ONCE", 2 * high * wide)
    parts = contract.numbers(graph.see(pictures))  # type: ignore[attr-defined]
    np.testing.assert_allclose(parts, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("check", contract.CHECKS, ids=contract.name)
@pytest.mark.parametrize("case", ["odd_grids", "untied"])
def test_contract(check: object, case: str, tmp_path: Path) -> None:
    subject = contract.Subject(
        ref=made.write(case, tmp_path / "model"),
        rows=made.alike(case, 3),
        declaration="ocr_mlx.model.families.lighton_ocr.family",
        scratch=tmp_path,
        group_size=32,
    )
    check(subject)  # type: ignore[operator]


@pytest.mark.parametrize(("bits", "allowed"), [(8, 0.05), (4, 0.65)])
def test_quantized_logits_stay_near(bits: int, allowed: float, tmp_path: Path) -> None:
    ref = made.write("odd_grids", tmp_path / "model")
    packed = load_model(ref, dtype="float32", quantize=Quantization(bits=bits, group_size=32)).graph
    golden = made.golden_of("odd_grids")
    worst = 0.0
    for index, row in enumerate(made.rows_of("odd_grids")):
        first, state = packed.prefill([row])
        rest = packed.decode(mx.array(golden[f"forced.{index}"][None]), state)
        expected = golden[f"logits.{index}"]
        worst = max(worst, float(np.sqrt(np.mean((contract.joined(first, rest)[0] - expected) ** 2)) / expected.std()))
    assert 0 < worst < allowed


@pytest.mark.parametrize(("dtype", "expected"), [("float16", mx.float16), ("bfloat16", mx.bfloat16)])
def test_half_precision_stays_half(dtype: str, expected: mx.Dtype, tmp_path: Path) -> None:
    graph = load_model(made.write("odd_grids", tmp_path / "model"), dtype=dtype).graph
    rows = made.rows_of("odd_grids")[:1]
    logits, state = graph.prefill(rows)
    again = graph.decode(mx.zeros((1, 1), dtype=mx.int32), state)
    assert {logits.dtype, again.dtype, *(array.dtype for array in state.arrays())} == {expected}
    golden = made.golden_of("odd_grids")["logits.0"][:1]
    assert np.abs(contract.numbers(logits) - golden).max() < 0.2


def test_a_row_without_a_picture_is_refused() -> None:
    graph = made.build(made.config_of("odd_grids"))
    with pytest.raises(ValueError, match="picture"):
        graph.prefill([ModelInputs(token_ids=(1, 2), pixels=None)])


def test_pictures_must_fill_the_image_tokens(tmp_path: Path) -> None:
    graph = load_model(made.write("odd_grids", tmp_path / "model"), dtype="float32").graph
    row = made.rows_of("odd_grids")[0]
    with pytest.raises(ValueError, match="image tokens"):
        graph.prefill([ModelInputs(token_ids=(*row.token_ids[1:-1], 290), pixels=row.pixels)])
