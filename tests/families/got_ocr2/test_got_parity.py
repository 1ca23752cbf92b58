"""Every stage of three tiny models against what transformers computed (scripts/reference.py), under all four namings."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.domain import DecodeParams, ModelRef
from ocr_mlx.inference.batch import DecodeBatch
from ocr_mlx.inference.stopping import Row, RowOutcome
from ocr_mlx.model.base import LoadedModel, ModelInputs
from ocr_mlx.model.families.got_ocr2.model import _PIXELS_AT_ONCE, GotModel
from ocr_mlx.model.load import load_model
from ocr_mlx.quantize.convert import convert
from tests.families import contract, got_made
from tests.families import got_checkpoint as made

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=made.CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(case: str, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(made.write(case, tmp_path_factory.mktemp(case) / "model"), dtype="float32")


def graph_of(model: LoadedModel) -> GotModel:
    assert isinstance(model.graph, GotModel)
    return model.graph


def pixels_of(case: str) -> mx.array:
    return mx.array(np.concatenate([row.pixels for row in made.rows_of(case) if row.pixels is not None]))


def close(found: mx.array, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(found), expected, rtol=0, atol=TOLERANCE)


# --- stages


def test_tower(case: str, model: LoadedModel) -> None:
    close(graph_of(model).model.vision_tower_high(pixels_of(case)), made.golden_of(case)["tower"])


def test_features(case: str, model: LoadedModel) -> None:
    close(graph_of(model).encode(pixels_of(case)), made.golden_of(case)["features"])


def test_teacher_forced_logits(case: str, model: LoadedModel) -> None:
    golden = made.golden_of(case)
    first, state = model.graph.prefill(made.rows_of(case))
    rest = model.graph.decode(mx.array(golden["forced"]), state)
    np.testing.assert_allclose(contract.joined(first, rest), golden["logits"], rtol=0, atol=TOLERANCE)


def test_greedy_ids(case: str, model: LoadedModel) -> None:
    expected = made.golden_of(case)["greedy"]
    ids, _ = contract.greedy(model.graph, made.rows_of(case), expected.shape[1])
    np.testing.assert_array_equal(ids, expected)


def test_guarded_ids(case: str, model: LoadedModel) -> None:
    """The program's own loop with the n-gram guard says what upstream's generate says with it."""
    expected = made.golden_of(case)["guarded"]
    params = DecodeParams(max_new_tokens=expected.shape[1], no_repeat_ngram=made.case_of(case)["guard"])
    assert [list(found) for found in decoded(model, made.rows_of(case), params)] == expected.tolist()


def decoded(model: LoadedModel, inputs: list[ModelInputs], params: DecodeParams) -> list[tuple[int, ...]]:
    """What the program's loop says for rows that never end by themselves."""
    model.processor.eos_token_ids = frozenset()
    outcomes: list[RowOutcome | None] = [None] * len(inputs)

    def keep(at: int) -> object:
        return lambda outcome: outcomes.__setitem__(at, outcome)

    cancel = threading.Event()
    rows = [
        Row(model, row, params, on_text=lambda *_: None, on_done=keep(at), cancel=cancel)  # type: ignore[arg-type]
        for at, row in enumerate(inputs)
    ]
    batch = DecodeBatch(model)
    batch.join(rows)
    while batch.rows:
        batch.step()
    return [outcome.tokens for outcome in outcomes if outcome is not None]


def test_goldens_hold_what_they_are_for() -> None:
    goldens = {case: made.golden_of(case) for case in made.CASES}
    assert goldens["pages"]["greedy"].shape == (3, 270)
    assert "lm_head.weight" in made.tensors_of("tiles")
    assert "lm_head.weight" not in made.tensors_of("windows")
    for golden in goldens.values():
        width = min(golden["greedy"].shape[1], golden["guarded"].shape[1])
        assert (
            len(np.unique(golden["greedy"])) >= 15
            or (golden["greedy"][:, :width] != golden["guarded"][:, :width]).any()
        )


# --- rows and pictures


def test_pictures_do_not_see_each_other(case: str, model: LoadedModel) -> None:
    pictures = pixels_of(case)
    alone = np.array(graph_of(model).encode(pictures[:1]))
    crowd = np.array(graph_of(model).encode(mx.concatenate([pictures[:1]] * 5)))
    np.testing.assert_allclose(crowd, np.repeat(alone, 5, axis=0), rtol=0, atol=1e-5)


def test_pictures_of_all_rows_are_seen_in_one_pass(
    case: str, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    see = type(graph_of(model).model).see

    def counted(self: object, pixels: mx.array) -> mx.array:
        seen.append(pixels.shape[0])
        return see(self, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(type(graph_of(model).model), "see", counted)
    rows = made.rows_of(case)
    model.graph.prefill(rows)
    assert seen == [len(rows) * made.case_of(case)["pictures"]]


def test_many_large_pictures_take_turns(case: str, model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = mx.concatenate([pixels_of(case)] * 2)
    whole = np.array(graph_of(model).encode(pictures))
    monkeypatch.setitem(_PIXELS_AT_ONCE, "cpu", 3 * pictures.shape[1] ** 2)
    np.testing.assert_allclose(np.array(graph_of(model).encode(pictures)), whole, rtol=0, atol=1e-5)


def test_rows_without_pictures_or_places_are_refused(case: str, model: LoadedModel) -> None:
    row = made.rows_of(case)[0]
    with pytest.raises(ValueError, match="picture"):
        model.graph.prefill([ModelInputs(token_ids=(0,), pixels=None)])
    with pytest.raises(ValueError, match="image tokens"):
        model.graph.prefill([ModelInputs(token_ids=row.token_ids[:-6], pixels=row.pixels)])


@pytest.mark.parametrize("check", contract.CHECKS, ids=contract.name)
@pytest.mark.parametrize("name", ["windows", pytest.param("tiles", marks=pytest.mark.slow)])
def test_contract(check: object, name: str, tmp_path: Path) -> None:
    subject = contract.Subject(
        ref=made.write(name, tmp_path / "model"),
        rows=made.rows_of(name, 3),
        declaration="ocr_mlx.model.families.got_ocr2.family",
        scratch=tmp_path,
        group_size=32,
    )
    check(subject)  # type: ignore[operator]


@pytest.mark.parametrize(("dtype", "expected"), [("float16", mx.float16), ("bfloat16", mx.bfloat16)])
def test_half_precision_stays_half(dtype: str, expected: mx.Dtype, tmp_path: Path) -> None:
    graph = load_model(made.write("windows", tmp_path / "model"), dtype=dtype).graph
    logits, state = graph.prefill(made.rows_of("windows"))
    again = graph.decode(mx.zeros((2, 1), dtype=mx.int32), state)
    assert {logits.dtype, again.dtype, *(array.dtype for array in state.arrays())} == {expected}
    assert np.abs(contract.numbers(logits) - made.golden_of("windows")["logits"][:, 0]).max() < 1.0


# --- namings


@pytest.mark.parametrize("naming", made.NAMINGS)
def test_every_naming_is_the_same_model(case: str, naming: str, tmp_path: Path) -> None:
    model = load_model(made.write(case, tmp_path / naming, naming), dtype="float32")
    first, _ = model.graph.prefill(made.rows_of(case))
    np.testing.assert_allclose(np.array(first), made.golden_of(case)["logits"][:, 0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("naming", made.NAMINGS)
def test_every_naming_converts(naming: str, tmp_path: Path) -> None:
    folder = convert(made.write("windows", tmp_path / naming, naming), tmp_path / "q8", bits=8, group_size=32)
    assert (folder / "qwen.tiktoken").is_file()
    model = load_model(ModelRef(id="q8", path=folder), dtype="float32")
    logits, _ = model.graph.prefill(made.rows_of("windows"))
    error = np.abs(np.array(logits) - made.golden_of("windows")["logits"][:, 0]).max()
    assert 1e-4 < error < 0.5


@pytest.mark.parametrize(("bits", "most"), [(8, 0.3), (4, 4.0)])
def test_quantization_errs_little(bits: int, most: float, tmp_path: Path) -> None:
    folder = convert(made.write("tiles", tmp_path / "model"), tmp_path / "packed", bits=bits, group_size=32)
    logits, _ = load_model(ModelRef(id="packed", path=folder), dtype="float32").graph.prefill(made.rows_of("tiles"))
    expected = made.golden_of("tiles")["logits"][:, 0]
    error = np.abs(np.array(logits) - expected).mean() / np.abs(expected).mean()
    assert 1e-4 < error < most / 8


@pytest.mark.parametrize("expanded", [True, False])
def test_packed_conversions_of_the_community_are_read(expanded: bool, tmp_path: Path) -> None:
    """Their names for packed tensors, and for the layers that config.json's record treats apart."""
    ours = convert(made.write("windows", tmp_path / "model"), tmp_path / "q", bits=4, group_size=32, mixed=True)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for path in ours.iterdir():
        (theirs / path.name).write_bytes(path.read_bytes())
    (theirs / "model.safetensors.index.json").unlink()
    tensors: dict[str, mx.array] = mx.load(str(ours / "model.safetensors"))  # type: ignore[assignment]
    named = {got_made.community(name): array for name, array in tensors.items()}
    mx.save_safetensors(str(theirs / "model.safetensors"), named, metadata={"format": "mlx"})
    config = json.loads((ours / "config.json").read_text())
    record = {got_made.community(name): value for name, value in config["quantization"].items()}
    assert {"bits": 8, "group_size": 32} == record["language_model.model.embed_tokens"]
    config |= {"model_type": "GOT", "quantization": record, "quantization_config": record}
    (theirs / "config.json").write_text(json.dumps(config))
    dtype = None if expanded else "float32"
    same = [load_model(ModelRef(id="q", path=folder), dtype=dtype) for folder in (ours, theirs)]
    assert same[0].bytes == same[1].bytes
    logits = [np.array(model.graph.prefill(made.rows_of("windows"))[0]) for model in same]
    np.testing.assert_array_equal(*logits)
