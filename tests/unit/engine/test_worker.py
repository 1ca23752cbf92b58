from __future__ import annotations

import threading
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.domain import Finish
from ocr_mlx.engine.worker import _NUMBERS_AT_ONCE, Worker, _Lane
from ocr_mlx.errors import ShuttingDown
from ocr_mlx.observer import Observer
from tests.unit.fakes import ScriptGraph, ScriptState, fake_model
from tests.unit.inference.test_batch import Said


def test_states_that_cannot_be_merged_end_their_rows_and_not_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ScriptState, other: ScriptState) -> None:
        raise ValueError("shapes differ")

    monkeypatch.setattr(ScriptState, "merge", refuse)
    model = fake_model([])
    lane = _Lane(model, 8)
    first, second = Said(model, "running for a while"), Said(model, "joins")
    for said in (first, second):
        lane.waiting.add([said.row])
        lane.step()
    assert first.end()[1] is Finish.ERROR and second.end()[1] is Finish.ERROR
    assert lane.idle


def test_the_setting_caps_the_batch() -> None:
    model = fake_model([])
    for most, places in ((None, model.processor.max_rows), (2, 2), (10_000, model.processor.max_rows)):
        worker = Worker(max_rows=most)
        assert worker.places(model) == places
        worker.close()
    lane = _Lane(model, 2)
    said = [Said(model, f"row {i}") for i in range(5)]
    lane.waiting.add(s.row for s in said)
    while not lane.idle:
        lane.step()
    assert isinstance(model.graph, ScriptGraph) and max(model.graph.widths) == 2
    assert [s.end() for s in said] == [(f"row {i}", Finish.EOS) for i in range(5)]


@pytest.mark.parametrize("documents", [1, 2, 3])
def test_long_documents_hold_up_no_short_one(documents: int) -> None:
    model = fake_model([])
    lane = _Lane(model, 2)
    long = [[Said(model, "a long one") for _ in range(9)] for _ in range(documents)]
    short = Said(model, "short")
    for pages in long:
        for said in pages:
            said.row.cancel = pages[0].cancel  # what makes them one document
        lane.waiting.add(said.row for said in pages)
    lane.step()
    lane.waiting.add([short.row])
    while short.outcome is None:
        lane.step()
    everything = [said for pages in long for said in pages]
    assert sum(said.outcome is not None for said in everything) <= 4
    while not lane.idle:
        lane.step()
    assert {said.end() for said in everything} == {("a long one", Finish.EOS)}


def test_running_out_of_memory_says_so_and_the_worker_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ScriptGraph, tokens: mx.array, state: ScriptState) -> mx.array:
        raise RuntimeError("[malloc] Unable to allocate 99 bytes.")

    model, worker = fake_model([]), Worker()
    with monkeypatch.context() as patch:
        patch.setattr(ScriptGraph, "decode", full)
        said = Said(model, "text")
        worker.admit(model, [said.row])
        assert said.ended.wait(10)
    assert said.outcome is not None and said.outcome.error is not None
    assert said.outcome.error.code == "out_of_memory"
    again = Said(model, "again")
    worker.admit(model, [again.row])
    assert again.ended.wait(10)
    assert again.end() == ("again", Finish.EOS)
    worker.close()


def test_closing_ends_every_row_and_refuses_more() -> None:
    model, worker = fake_model([]), Worker(max_rows=1)
    model.graph.gate = threading.Event().is_set  # type: ignore[attr-defined]
    said = [Said(model, "x" * 3000) for _ in range(3)]
    worker.admit(model, [s.row for s in said])
    worker.call(lambda: None).result(10)
    worker.close()
    assert all(s.ended.wait(10) for s in said)
    assert {s.end()[1] for s in said} == {Finish.ERROR}
    with pytest.raises(ShuttingDown):
        worker.call(lambda: None)


class Noted(Observer):
    """Keeps what the worker tells."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.steps: list[tuple[int, int]] = []
        self.waits: list[int] = []
        self.held: list[int] = []

    def prefilled(self, rows: int, seconds: float) -> None:
        assert seconds >= 0
        self.reads.append(rows)

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        assert seconds >= 0
        self.steps.append((rows, tokens))

    def waiting(self, rows: int) -> None:
        self.waits.append(rows)

    def cache_bytes(self, held: int) -> None:
        self.held.append(held)


def settle(worker: Worker) -> None:
    """Wait until no row is left."""
    for _ in range(10_000):
        if worker.call(lambda: not worker._lanes).result(10):
            return
    raise AssertionError("rows are still there")


def test_the_observer_hears_of_every_pass() -> None:
    noted = Noted()
    model, worker = fake_model([]), Worker(max_rows=2, observer=noted)
    said = [Said(model, text) for text in ("one", "four", "seven and more")]
    worker.admit(model, [s.row for s in said])
    assert all(s.ended.wait(10) for s in said)
    settle(worker)
    worker.close()
    assert sum(noted.reads) == 3
    assert sum(tokens for _, tokens in noted.steps) == len("onefourseven and more")
    assert {rows for rows, _ in noted.steps} == {1, 2}
    assert noted.waits[0] == 1 and noted.waits[-1] == 0
    assert max(noted.held) > 0 and noted.held[-1] == 0


def picture(said: Said, side: int) -> Said:
    """The row with a square picture of that side."""
    said.row.inputs = replace(said.row.inputs, pixels=np.zeros((side, side, 3), dtype=np.float32))
    return said


def test_running_rows_wait_for_one_group_of_one_shape_at_most() -> None:
    model = fake_model([], max_rows=64)
    lane = _Lane(model, 64)
    graph = model.graph
    assert isinstance(graph, ScriptGraph)
    running = Said(model, "x" * 200)
    lane.waiting.add([running.row])
    lane.step()
    sides = [10, 10, 20, 20, 10, 30, 10]
    joined = [picture(Said(model, f"row {i}"), side) for i, side in enumerate(sides)]
    lane.waiting.add(said.row for said in joined)
    while not lane.idle:
        reads, steps = len(graph.prefills), len(graph.widths)
        lane.step()
        assert len(graph.prefills) - reads <= 1
        assert len(graph.widths) - steps >= (1 if not lane.idle else 0)
    assert graph.prefills == [1, 2, 2, 1, 1, 1]
    assert [said.end() for said in joined] == [(f"row {i}", Finish.EOS) for i in range(len(sides))]
    assert running.end() == ("x" * 200, Finish.EOS)


def test_a_group_is_no_larger_than_a_page() -> None:
    model = fake_model([], max_rows=64)
    assert isinstance(model.graph, ScriptGraph)
    lane = _Lane(model, 64)
    side = 400
    most = _NUMBERS_AT_ONCE // (side * side * 3)
    assert most > 1
    lane.waiting.add(picture(Said(model, "page"), side).row for _ in range(most + 2))
    lane.waiting.add(picture(Said(model, "huge"), 1500).row for _ in range(2))
    while not lane.idle:
        lane.step()
    assert model.graph.prefills == [most, 2, 1, 1]


def test_a_cancelled_row_takes_one_more_step_at_most_and_its_cache_is_gone() -> None:
    noted = Noted()
    model = fake_model([])
    assert isinstance(model.graph, ScriptGraph)
    lane = _Lane(model, 8, observer=noted)
    gone, stays, waits = Said(model, "x" * 99), Said(model, "y" * 60), Said(model, "z" * 9)
    lane.waiting.add((gone.row, stays.row))
    for _ in range(5):
        lane.step()
    before, steps = lane.cache_bytes, len(model.graph.widths)
    gone.cancel.set()
    waits.cancel.set()
    lane.waiting.add([waits.row])
    lane.step()
    assert gone.end() == ("xxxxx", Finish.CANCELLED) and waits.end() == ("", Finish.CANCELLED)
    assert model.graph.widths[steps:] == [1], "no pass for it any more"
    assert lane.cache_bytes < before * 0.7
    assert model.graph.prefills == [2]
    stays.cancel.set()
    lane.step()
    assert lane.idle and lane.cache_bytes == 0


def test_a_document_cancelled_between_two_groups_reads_no_further() -> None:
    model = fake_model([], max_rows=64)
    assert isinstance(model.graph, ScriptGraph)
    lane = _Lane(model, 64)
    pages = [picture(Said(model, f"page {i}"), 1500) for i in range(4)]
    for said in pages:
        said.row.cancel = pages[0].cancel
    lane.waiting.add(said.row for said in pages)
    lane.step()
    pages[0].cancel.set()
    lane.step()
    assert lane.idle and model.graph.prefills == [1]
    assert [said.end()[1] for said in pages] == [Finish.CANCELLED] * 4


def test_deterministic_passes_have_one_width() -> None:
    model, worker = fake_model([]), Worker(max_rows=4, deterministic=True)
    assert isinstance(model.graph, ScriptGraph)
    said = [Said(model, f"row {i}") for i in range(6)]
    worker.admit(model, [s.row for s in said])
    assert all(s.ended.wait(10) for s in said)
    worker.close()
    assert set(model.graph.widths) == {4} and set(model.graph.prefills) == {1}
    assert [s.end() for s in said] == [(f"row {i}", Finish.EOS) for i in range(6)]


class Counted(threading.Event):
    """A cancel flag that counts how often it is looked at."""

    looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return super().is_set()


def test_rows_that_wait_cost_a_step_as_much_as_their_documents_do() -> None:
    model = fake_model([])
    lane = _Lane(model, 2)
    flags = [Counted() for _ in range(4)]
    for flag in flags:
        rows = [Said(model, "some text").row for _ in range(200)]
        for row in rows:
            row.cancel = flag
        lane.waiting.add(rows)
    lane.step()
    for flag in flags:
        flag.looks = 0
    lane.step()
    assert len(lane.waiting) == 798
    assert sum(flag.looks for flag in flags) < 20
    flags[0].set()
    lane.step()
    assert 590 < len(lane.waiting) <= 600, "the cancelled document's rows are gone"
    for flag in flags:
        flag.set()
    lane.step()
    assert lane.idle


def test_rows_that_ended_while_they_waited_are_passed_over() -> None:
    model = fake_model([])
    lane = _Lane(model, 1)
    flag = threading.Event()
    page = [Said(model, f"row {i}") for i in range(5)]
    other = Said(model, "another")
    for said in page:
        said.row.cancel = flag
    lane.waiting.add([*(said.row for said in page), other.row])
    lane.step()
    for said in page[1:4]:
        said.row.end(Finish.STOP)  # as when a stop string in row 0 ends the page
    lane.step()
    assert len(lane.waiting) == 2
    while not lane.idle:
        lane.step()
    assert isinstance(model.graph, ScriptGraph) and model.graph.prefills == [1, 1, 1]
    assert page[0].end() == ("row 0", Finish.EOS) and page[4].end() == ("row 4", Finish.EOS)
    assert other.end() == ("another", Finish.EOS)
