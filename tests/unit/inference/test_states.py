"""Passes of one width: who stands in for whom, and what the graph is told."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import pytest

from ocr_mlx.inference.states import RowStates, fixed_width
from tests.unit.fakes import ScriptGraph, ScriptState, ids


class Noted(ScriptState):
    """A state that notes whether it was asked to stand apart, and what was kept."""

    def __init__(self, scripts: list[list[int]]) -> None:
        super().__init__(scripts)
        self.apart = False
        self.kept: list[list[int]] = []

    def stand_apart(self) -> None:
        self.apart = True

    def keep(self, rows: Sequence[int]) -> None:
        self.kept.append(list(rows))
        super().keep(rows)


def states(graph: ScriptGraph, *texts: str, width: int | None) -> tuple[RowStates, Noted]:
    state = Noted([ids(text) for text in texts])
    return RowStates(graph, state, len(texts), width), state


@pytest.mark.parametrize(("places", "width"), [(0, 0), (1, 1), (2, 4), (4, 4), (5, 8), (8, 8), (30, 32), (64, 64)])
def test_a_fixed_width_is_whole_tiles(places: int, width: int) -> None:
    assert fixed_width(places) == width


def test_missing_rows_are_copies_of_the_first_and_are_not_read() -> None:
    graph = ScriptGraph()
    held, state = states(graph, "abc", "xyz", width=4)
    logits = held.decode(mx.array([[1], [2]]))
    assert (graph.widths, state.kept) == ([4], [[0, 1, 0, 0]])
    assert logits.argmax(-1)[:, 0].tolist() == [ids("b")[0], ids("y")[0]]
    held.decode(mx.array([[1], [2]]))
    assert len(state.kept) == 1, "filled up once"


def test_rows_that_join_and_leave_keep_the_width() -> None:
    graph = ScriptGraph()
    held, _ = states(graph, "abc", width=4)
    held.decode(mx.array([[1]]))
    late, _ = states(graph, "xyz", width=4)
    held.merge(late)
    assert held.decode(mx.array([[1], [2]])).argmax(-1)[:, 0].tolist() == [ids("c")[0], ids("y")[0]]
    held.keep([1])
    assert held.decode(mx.array([[2]])).argmax(-1)[:, 0].tolist() == [ids("z")[0]]
    assert graph.widths == [4, 4, 4]
    assert held.held == [2]


def test_copies_are_trimmed_with_the_first_row() -> None:
    held, state = states(ScriptGraph(), "abc", width=4)
    held.decode(mx.array([[1, 1]]))
    held.trim_to([1])
    assert state.at == [1] * 4


def test_only_rows_of_a_fixed_width_stand_apart() -> None:
    assert states(ScriptGraph(), "abc", width=4)[1].apart
    assert not states(ScriptGraph(), "abc", width=None)[1].apart
