"""Post-processing and repetition test against what upstream's own code gives (scripts/reference.py)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ocr_mlx.model.families.nougat.postprocess import clean_page
from ocr_mlx.model.families.nougat.repetition import ratio
from ocr_mlx.model.families.nougat.stopping import ScoreVarianceTest, repetition_start
from tests.families import nougat_made

GOLDEN = Path(__file__).parent / "golden"
PAGES: list[dict[str, str]] = json.loads((GOLDEN / "postprocess.json").read_text())
CURVES: list[dict[str, Any]] = json.loads((GOLDEN / "stopping.json").read_text())


@pytest.mark.parametrize("page", PAGES, ids=range(len(PAGES)))
def test_page_is_cleaned_as_upstream_does(page: dict[str, str]) -> None:
    assert clean_page(page["text"], markdown=False) == page["page"]
    assert clean_page(page["text"]) == page["markdown"]


def test_goldens_are_many_and_most_change() -> None:
    assert len(PAGES) >= 60
    assert sum(page["text"].strip() != page["page"].strip() for page in PAGES) >= 40


@pytest.mark.parametrize(
    "text",
    [
        "\\begin{tabular}{cc}" + " " * 20_000 + "x",
        "```" + " \n" * 20_000,
        "a" * 20_000,
        "* [1] " + "A. " * 5_000 + "\n" * 2_000,
        "# " + "\n " * 10_000,
        "\n".join(f"{n} " + "a" * 190 for n in range(400)),
    ],
    ids=["table", "fence", "letters", "reference", "heading", "lines"],
)
def test_runaway_pages_are_cleaned_in_time(text: str) -> None:
    start = time.perf_counter()
    clean_page(text)
    assert time.perf_counter() - start < 5


def test_ratio_by_hand() -> None:
    assert ratio("", "") == 1.0
    assert ratio("abc", "") == 0.0
    assert ratio("abcd", "abxd") == 0.75
    assert ratio("kitten", "sitting") == pytest.approx(1 - 5 / 13)


@pytest.mark.parametrize("golden", CURVES, ids=lambda golden: str(golden["index"]))
def test_stops_where_upstream_stops(golden: dict[str, Any]) -> None:
    test = ScoreVarianceTest(frozenset({2}), limit=10_000)
    answers = [test.update(9, float(value)) for value in nougat_made.curve(golden["index"])]
    first = next((step for step, keep in enumerate(answers, 1) if keep is not None), None)
    assert first == golden["stopped"]
    if first is not None:
        repeats = golden["repeats"]
        assert answers[first - 1] == (first if repeats is None else max(repeats - 1, 0))


@pytest.mark.parametrize("golden", CURVES, ids=lambda golden: str(golden["index"]))
def test_repetition_starts_where_upstream_says(golden: dict[str, Any]) -> None:
    values = nougat_made.curve(golden["index"])
    assert repetition_start(values[: golden["stopped"] or len(values)]) == golden["repeats"]


def test_curves_cover_all_answers() -> None:
    assert {golden["stopped"] is None for golden in CURVES} == {True, False}
    assert {golden["repeats"] for golden in CURVES} >= {None, 0}


def test_a_row_that_ends_by_itself_is_never_cut() -> None:
    test = ScoreVarianceTest(frozenset({2}), limit=201)
    calm = [test.update(9, 20.0) for _ in range(150)]
    assert calm == [None] * 150
    assert test.update(2, 20.0) is None


def test_the_limit_looks_once_more() -> None:
    values = np.concatenate([nougat_made.curve(0)[:30], np.full(165, 20.0)])
    test = ScoreVarianceTest(frozenset({2}), limit=len(values))
    answers = [test.update(9, float(value)) for value in values]
    assert answers[:-1] == [None] * (len(values) - 1)
    repeats = repetition_start(values)
    assert repeats is not None
    assert answers[-1] == max(repeats - 1, 0)
