"""Every stage of four tiny models against what transformers computed (scripts/reference.py)."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.errors import UnsupportedArchitecture
from ocr_mlx.model.base import LoadedModel, ModelInputs
from ocr_mlx.model.load import load_model
from tests.families import contract
from tests.families import nougat_checkpoint as made

TOLERANCE = 1e-4
END = 2


@pytest.fixture(scope="module", params=made.CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(case: str, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(made.write(case, tmp_path_factory.mktemp(case) / "model"), dtype="float32")


def pixels_of(case: str) -> mx.array:
    return mx.array(np.stack([row.pixels for row in made.rows_of(case) if row.pixels is not None]))


def test_encoder(case: str, model: LoadedModel) -> None:
    found = np.array(model.graph.encoder(pixels_of(case)))  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, made.golden_of(case)["encoder"], rtol=0, atol=TOLERANCE)


def test_projection(case: str, model: LoadedModel) -> None:
    golden = made.golden_of(case)
    found = np.array(model.graph.encode(pixels_of(case)))  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, golden.get("projected", golden["encoder"]), rtol=0, atol=TOLERANCE)


def test_teacher_forced_logits(case: str, model: LoadedModel) -> None:
    golden = made.golden_of(case)
    first, state = model.graph.prefill(made.rows_of(case))
    rest = model.graph.decode(mx.array(golden["tokens"][:, 1:]), state)
    np.testing.assert_allclose(contract.joined(first, rest), golden["logits"], rtol=0, atol=TOLERANCE)


def test_greedy_ids(case: str, model: LoadedModel) -> None:
    golden = made.golden_of(case)
    expected, never = golden["greedy"], golden["suppressed"].tolist()
    ids, _ = contract.greedy(model.graph, made.rows_of(case), expected.shape[1], never)
    for row, wanted in zip(ids, expected, strict=True):
        end = wanted.tolist().index(END) + 1 if END in wanted else len(wanted)
        assert row[:end].tolist() == wanted[:end].tolist()


def test_goldens_hold_what_they_are_for() -> None:
    sizes = {case: made.golden_of(case)["greedy"].shape for case in made.CASES}
    assert len(sizes) >= 4
    assert any(rows > 1 and length >= 200 for rows, length in sizes.values())
    assert "projected" in made.golden_of("places")
    assert "decoder.lm_head.weight" not in made.tensors_of("tied")


def test_eight_pictures_equal_one(model: LoadedModel, case: str) -> None:
    pictures = pixels_of(case)
    alone = np.array(model.graph.encode(pictures[:1]))  # type: ignore[attr-defined]
    crowd = np.array(model.graph.encode(mx.concatenate([pictures[:1]] * 8)))  # type: ignore[attr-defined]
    np.testing.assert_allclose(crowd, np.repeat(alone, 8, axis=0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("check", contract.CHECKS, ids=contract.name)
@pytest.mark.parametrize("case", ["odd_grids", "tied"])
def test_contract(check: object, case: str, tmp_path: Path) -> None:
    subject = contract.Subject(
        ref=made.write(case, tmp_path / "model"),
        rows=made.rows_of(case, 3),
        declaration="ocr_mlx.model.families.nougat.family",
        scratch=tmp_path,
        group_size=32,
    )
    check(subject)  # type: ignore[operator]


def test_conversions_with_shorter_names_are_read() -> None:
    graph = made.build(made.config_of("odd_grids"))
    short = {"decoder.model.embed_tokens.scales": mx.zeros(1), "decoder.model.layers.0.fc1.weight": mx.zeros(1)}
    names = ["decoder.model.decoder.embed_tokens.scales", "decoder.model.decoder.layers.0.fc1.weight"]
    assert list(graph.sanitize(short)) == names
    assert list(graph.sanitize(graph.sanitize(short))) == names


def test_a_kernel_of_one_shape_in_both_layouts_is_turned_once() -> None:
    config = made.config_of("odd_grids")
    config["encoder"] |= {"patch_size": 3, "num_channels": 3}
    graph = made.build(config)
    kernel, index = mx.arange(8 * 27).reshape(8, 3, 3, 3), "encoder.encoder.layers.0.blocks.0.attention.self."
    upstream = {made.KERNEL: kernel, f"{index}relative_position_index": mx.zeros((49, 49))}
    once = graph.sanitize(upstream)
    assert list(once) == [made.KERNEL]
    assert mx.array_equal(once[made.KERNEL], kernel.transpose(0, 2, 3, 1)).item()
    assert mx.array_equal(graph.sanitize(once)[made.KERNEL], once[made.KERNEL]).item()


def test_positions_fit_the_picture_or_say_so() -> None:
    graph = made.build(made.config_of("places"))
    with pytest.raises(UnsupportedArchitecture, match="absolute positions"):
        graph.encode(mx.zeros((1, 40, 80, 1)))
    with pytest.raises(UnsupportedArchitecture, match="smaller than the window"):
        made.build(made.config_of("odd_grids")).encode(mx.zeros((1, 64, 64, 3)))


def test_a_row_without_a_picture_is_refused() -> None:
    graph = made.build(made.config_of("places"))
    with pytest.raises(ValueError, match="picture"):
        graph.prefill([ModelInputs(token_ids=(0,), pixels=None)])


@pytest.mark.parametrize(("dtype", "expected"), [("float16", mx.float16), ("bfloat16", mx.bfloat16)])
def test_half_precision_stays_half(dtype: str, expected: mx.Dtype, tmp_path: Path) -> None:
    graph = load_model(made.write("odd_grids", tmp_path / "model"), dtype=dtype).graph
    logits, state = graph.prefill(made.rows_of("odd_grids"))
    again = graph.decode(mx.zeros((2, 1), dtype=mx.int32), state)
    assert {logits.dtype, again.dtype, *(array.dtype for array in state.arrays())} == {expected}
    golden = made.golden_of("odd_grids")["logits"][:, 0]
    assert np.abs(contract.numbers(logits) - golden).max() < 0.5
