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
    lane = _Lane(model, None)
    first, second = Said(model, "running for a while"), Said(model, "joins")
    for said in (first, second):
        lane.waiting.append(said.row)
        lane.step()
    assert first.end()[1] is Finish.ERROR and second.end()[1] is Finish.ERROR
    assert lane.idle


def test_the_setting_caps_the_batch() -> None:
    model = fake_model([])
    lane = _Lane(model, 2)
    said = [Said(model, f"row {i}") for i in range(5)]
    lane.waiting.extend(s.row for s in said)
    while not lane.idle:
        lane.step()
    assert isinstance(model.graph, ScriptGraph) and max(model.graph.widths) == 2
    assert [s.end() for s in said] == [(f"row {i}", Finish.EOS) for i in range(5)]


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
