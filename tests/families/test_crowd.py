"""Rows of every family's tiny checkpoints, alone and in a crowd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ocr_mlx.domain import DecodeParams
from ocr_mlx.model.base import LoadedModel, ModelInputs
from ocr_mlx.model.load import load_model
from tests.families import (
    crowd,
    deepseek_checkpoint,
    got_checkpoint,
    lighton_checkpoint,
    nougat_checkpoint,
    qwen2_vl_checkpoint,
)

Guests = tuple[LoadedModel, Sequence[ModelInputs]]
PARAMS = DecodeParams(max_new_tokens=24)


def nougat(folder: Path) -> Guests:
    model = load_model(nougat_checkpoint.write("odd_grids", folder), dtype="float32")
    return model, nougat_checkpoint.rows_of("odd_grids", crowd.CROWD)


def lighton(folder: Path) -> Guests:
    model = load_model(lighton_checkpoint.write("odd_grids", folder), dtype="float32")
    return model, lighton_checkpoint.alike("odd_grids", crowd.CROWD)


def deepseek(folder: Path) -> Guests:
    model = load_model(deepseek_checkpoint.write("graph-tiles", folder), dtype="float32")
    return model, deepseek_checkpoint.rows_of("graph-tiles", crowd.CROWD)


def deepseek_window(folder: Path) -> Guests:
    model = load_model(deepseek_checkpoint.write("graph-window", folder), dtype="float32")
    return model, deepseek_checkpoint.rows_of("graph-window", crowd.CROWD)


def got(folder: Path) -> Guests:
    model = load_model(got_checkpoint.write("windows", folder), dtype="float32")
    return model, got_checkpoint.rows_of("windows", crowd.CROWD)


def qwen2_vl(folder: Path) -> Guests:
    model = load_model(qwen2_vl_checkpoint.write("flat", folder), dtype="float32")
    return model, [qwen2_vl_checkpoint.row_of(model, [[61, 90]], "Read.", name) for name in "abcdefgh"]


FAMILIES = (nougat, lighton, deepseek, deepseek_window, got, qwen2_vl)


@pytest.mark.parametrize("make", [nougat, lighton, deepseek_window, got, qwen2_vl])
def test_some_rows_say_the_same_alone_and_in_a_crowd(make: Callable[[Path], Guests], tmp_path: Path) -> None:
    model, rows = make(tmp_path / "model")
    params, some = DecodeParams(max_new_tokens=10), (0, 5)
    plain = crowd.alone(model, [rows[i] for i in some], params, None)
    late = crowd.joining_late(model, rows, params, None)
    for i, expected in zip(some, plain, strict=True):
        assert crowd.same_words(late[i], expected)
        assert crowd.same_words(crowd.deserted(model, rows, params, None, i), expected)
    steady = crowd.alone(model, [rows[i] for i in some], params, crowd.CROWD)
    late = crowd.joining_late(model, rows, params, crowd.CROWD)
    assert all(crowd.identical(late[i], expected) for i, expected in zip(some, steady, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("make", FAMILIES)
def test_every_row_says_the_same_alone_and_in_a_crowd(make: Callable[[Path], Guests], tmp_path: Path) -> None:
    model, rows = make(tmp_path / "model")
    assert len(rows) == crowd.CROWD
    plain = crowd.alone(model, rows, PARAMS, None)
    steady = crowd.alone(model, rows, PARAMS, crowd.CROWD)
    assert len({outcome.tokens for outcome in plain}) > 1, "rows that all say the same prove little"
    for way in crowd.WAYS:
        for found, expected in zip(way(model, rows, PARAMS, None), plain, strict=True):
            assert crowd.same_words(found, expected), way.__name__
        for found, expected in zip(way(model, rows, PARAMS, crowd.CROWD), steady, strict=True):
            assert crowd.identical(found, expected), way.__name__
