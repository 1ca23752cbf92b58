from __future__ import annotations

from collections.abc import Callable

import pytest

from ocr_mlx.inference.draft_worth import Pace, Worth, asking, cost


def test_the_surer_the_longer() -> None:
    worth = Worth(64)
    widths = [worth.width(chance, 15) for chance in (0.3, 0.5, 0.7, 0.9, 0.99)]
    assert widths[:2] == [0, 0]
    assert widths[2:] == sorted(widths[2:])
    assert widths[2] > 0
    assert widths[-1] == 15


def test_never_more_than_asked_for() -> None:
    assert Worth(1).width(0.99, 3) == 3
    assert Worth(1).width(0.99, 0) == 0


def test_evidence_of_the_page_counts_for_every_row() -> None:
    good, bad = Worth(64), Worth(64)
    good.saw(100, 1)
    bad.saw(5, 10)
    assert good.chance(0, 0) > 0.95
    assert bad.chance(0, 0) < 0.5
    assert good.chance(0, 8) < 0.6


def test_a_page_whose_words_are_wrong_is_given_up() -> None:
    worth = Worth(64)
    for _ in range(22):
        worth.saw(0, 1)
    assert not worth.hopeless
    worth.saw(0, 1)
    assert worth.hopeless


def test_a_page_with_some_errors_is_not() -> None:
    worth = Worth(64)
    for _ in range(200):
        worth.saw(4, 1)
    assert not worth.hopeless


def passes_lost(worth: Worth, lose: Callable[[Worth], None], each: float) -> float:
    """What a page may lose, in passes of one token for one row, `each` at a time, before it is given up."""
    lost = 0.0
    while not worth.hopeless:
        lose(worth)
        lost += each
        assert lost < 1000
    return lost


@pytest.mark.parametrize("rows", [1, 8, 43, 64])
def test_a_page_never_loses_more_than_a_fiftieth(rows: int) -> None:
    """A line of print takes some 25 passes of one token; a page of one row takes several hundred."""
    most = max(8.0, 0.02 * 25 * rows)
    wrong, vain = 3 * cost(rows) + asking(rows), asking(rows)
    assert passes_lost(Worth(rows), lambda worth: worth.paid(3, 0), wrong) <= most + wrong
    assert passes_lost(Worth(rows), lambda worth: worth.in_vain(), vain) <= most + vain
    beside = passes_lost(Worth(rows), lambda worth: worth.paid(3, 0, asked=False), 3 * cost(rows))
    assert beside <= most + 3 * cost(rows), "its neighbours' drafts make its passes wider too"


def test_a_page_may_lose_again_what_its_drafts_have_saved() -> None:
    worth, fresh = Worth(64), Worth(64)
    for _ in range(40):
        worth.paid(15, 14)
    saved = passes_lost(worth, lambda worth: worth.paid(15, 0), 6.4)
    assert 40 < saved - passes_lost(fresh, lambda worth: worth.paid(15, 0), 6.4) < 60


def test_nothing_is_lost_where_drafts_pay() -> None:
    worth = Worth(64)
    for _ in range(64):
        worth.in_vain()
        worth.paid(3, 3)
    assert not worth.hopeless


def test_one_rows_long_draft_does_not_burden_many() -> None:
    pace = Pace()
    assert pace.width([15] * 64) > 8
    assert pace.width([15] + [0] * 63) == 0
    assert 0 < pace.width([15] * 32 + [4] * 32) <= 15
    assert pace.width([]) == pace.width([0, 0]) == 0


def test_bad_drafts_slow_the_pace() -> None:
    pace = Pace()
    before = pace.width([15] * 64)
    for _ in range(20):
        pace.saw(15, 5)
    assert pace.width([15] * 64) < before
    for _ in range(60):
        pace.saw(8, 0)
    assert pace.width([15] * 64) == 0


def test_a_bad_page_does_not_spoil_the_pages_behind_it() -> None:
    pace = Pace()
    for _ in range(200):
        pace.saw(8, 1)
    assert [pace.width([15] * 64) for _ in range(10)] == [0] * 10
    assert any(pace.width([15] * 64) for _ in range(100))


@pytest.mark.parametrize(("rows", "price"), [(64, 0.4), (200, 0.4)])
def test_what_a_token_costs(rows: int, price: float) -> None:
    assert cost(rows) == price
    assert cost(1) < cost(8) < cost(64)
    assert asking(1) < asking(8) < asking(64) <= price
