from __future__ import annotations

import threading

import mlx.core as mx
import pytest

from ocr_mlx.domain import Finish
from ocr_mlx.engine.worker import Worker, _Lane
from ocr_mlx.errors import ShuttingDown
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
        lane.waiting.append(said.row)
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
    lane.waiting.extend(s.row for s in said)
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
        lane.waiting.extend(said.row for said in pages)
    lane.step()
    lane.waiting.append(short.row)
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
