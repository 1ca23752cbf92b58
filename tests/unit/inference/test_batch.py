from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.domain import DecodeParams, Finish
from ocr_mlx.inference.batch import DecodeBatch
from ocr_mlx.inference.stopping import Row, RowOutcome
from ocr_mlx.model.base import LoadedModel, ModelInputs
from tests.unit.fakes import ScriptGraph, ScriptState, fake_model, ids


class Said:
    """Collects what a row says."""

    def __init__(self, model: LoadedModel, text: str, params: DecodeParams | None = None, **extras: object) -> None:
        self.deltas: list[str] = []
        self.outcome: RowOutcome | None = None
        self.cancel = threading.Event()
        self.ended = threading.Event()
        inputs = ModelInputs(token_ids=(1,), pixels=None, extras={"script": ids(text), **extras}, prompt_tokens=1)
        self.row = Row(
            model,
            inputs,
            params or DecodeParams(),
            on_text=lambda delta, _tokens: self.deltas.append(delta),
            on_done=self._done,
            cancel=self.cancel,
        )

    def _done(self, outcome: RowOutcome) -> None:
        assert self.outcome is None, "a row ends once"
        self.outcome = outcome
        self.ended.set()

    def end(self) -> tuple[str, Finish]:
        assert self.outcome is not None
        return self.outcome.text, self.outcome.finish


def drain(batch: DecodeBatch, most: int = 10_000) -> int:
    steps = 0
    while batch.rows:
        batch.step()
        steps += 1
        assert steps < most
    return steps


def graph(model: LoadedModel) -> ScriptGraph:
    assert isinstance(model.graph, ScriptGraph)
    return model.graph


def test_rows_of_different_length_leave_as_they_end() -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    said = [Said(model, text) for text in ("a", "a longer line", "mid")]
    batch.join([s.row for s in said])
    drain(batch)
    assert [s.end() for s in said] == [("a", Finish.EOS), ("a longer line", Finish.EOS), ("mid", Finish.EOS)]
    assert ["".join(s.deltas) for s in said] == ["a", "a longer line", "mid"]
    assert graph(model).prefills == [3]
    assert batch.cache_bytes == 0


def test_numbers_that_are_not_finite_fail_their_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    said = [Said(model, text) for text in ("good", "bad", "fine")]
    batch.join([s.row for s in said])
    decode = graph(model).decode

    def broken(tokens: mx.array, state: ScriptState) -> mx.array:
        logits = decode(tokens, state)
        return mx.where(mx.arange(logits.shape[0])[:, None, None] == 1, mx.nan, logits)

    monkeypatch.setattr(model.graph, "decode", broken)
    batch.step()
    batch.step()
    monkeypatch.undo()
    drain(batch)
    assert [s.end() for s in said] == [("good", Finish.EOS), ("b", Finish.ERROR), ("fine", Finish.EOS)]
    assert said[1].outcome is not None and "not finite" in str(said[1].outcome.error)


def test_only_rows_of_one_shape_are_read_together() -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    said = [Said(model, text) for text in "abcde"]
    tiles = [(2, 4, 4), (3, 4, 4), (2, 4, 4), None, (2, 4, 4)]
    for one, shape in zip(said, tiles, strict=True):
        extras = dict(one.row.inputs.extras) | ({"tiles": np.zeros(shape)} if shape else {})
        one.row.inputs = replace(one.row.inputs, extras=extras)
    batch.join([one.row for one in said])
    drain(batch)
    assert sorted(graph(model).prefills) == [1, 1, 3]
    assert [one.end()[0] for one in said] == list("abcde")


def test_rows_join_a_running_batch() -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    first, second = Said(model, "first one here"), Said(model, "second")
    batch.join([first.row])
    batch.step()
    batch.step()
    batch.join([second.row])
    drain(batch)
    assert first.end() == ("first one here", Finish.EOS)
    assert second.end() == ("second", Finish.EOS)
    assert max(graph(model).widths) == 2


def test_the_limit_ends_a_row_and_nothing_is_computed_beyond_it() -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    said = Said(model, "abcdef", DecodeParams(max_new_tokens=3))
    batch.join([said.row])
    drain(batch)
    assert said.end() == ("abc", Finish.LENGTH)
    assert len(graph(model).widths) == 2


def test_the_models_positions_are_a_limit_too() -> None:
    model = fake_model([])
    graph(model).max_positions = 5
    batch = DecodeBatch(model)
    said = Said(model, "abcdefgh")
    batch.join([said.row])
    drain(batch)
    assert said.end() == ("abcd", Finish.LENGTH)


def test_a_prompt_that_fills_the_positions_is_an_error_of_its_row_alone() -> None:
    model = fake_model([])
    graph(model).max_positions = 1
    batch = DecodeBatch(model)
    said = Said(model, "abc")
    batch.join([said.row])
    assert said.end() == ("", Finish.ERROR)
    assert said.outcome is not None and said.outcome.error is not None
    assert said.outcome.error.code == "prompt_too_long"


def test_cancel_takes_effect_before_the_next_step() -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    gone, stays = Said(model, "x" * 50), Said(model, "stays")
    batch.join([gone.row, stays.row])
    batch.step()
    gone.cancel.set()
    widths = len(graph(model).widths)
    batch.step()
    assert gone.end() == ("x", Finish.CANCELLED)
    assert graph(model).widths[widths:] == [1]
    drain(batch)
    assert stays.end() == ("stays", Finish.EOS)


def test_a_row_that_raises_fails_alone() -> None:
    model = fake_model([])

    class Bomb:
        def update(self, token: int, max_logit: float) -> int | None:
            raise ZeroDivisionError

    batch = DecodeBatch(model)
    good = Said(model, "good")
    model.processor.make_test = Bomb  # type: ignore[attr-defined]
    bad = Said(model, "bad")
    batch.join([good.row, bad.row])
    drain(batch)
    assert bad.end()[1] is Finish.ERROR
    assert good.end() == ("good", Finish.EOS)


def test_a_picture_that_cannot_be_read_does_not_touch_running_rows() -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    good, bad = Said(model, "good text"), Said(model, "bad", poison=True)
    batch.join([good.row])
    batch.step()
    batch.join([bad.row])
    drain(batch)
    assert bad.end()[1] is Finish.ERROR
    assert good.end() == ("good text", Finish.EOS)


def test_a_family_test_cuts_back_to_where_the_loop_began() -> None:
    model = fake_model([])

    class After4:
        seen = 0

        def update(self, token: int, max_logit: float) -> int | None:
            self.seen += 1
            assert max_logit == 10.0
            return 2 if self.seen == 4 else None

    model.processor.make_test = After4  # type: ignore[attr-defined]
    batch = DecodeBatch(model)
    said = Said(model, "abcdefgh")
    batch.join([said.row])
    drain(batch)
    assert said.end() == ("ab", Finish.LOOP), "called out again in its second try"
    assert said.outcome is not None and len(said.outcome.tokens) == len(said.outcome.logprobs) == 2


def test_endless_repetition_is_stopped_and_said() -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    said = Said(model, "start " + "la " * 1000, DecodeParams(no_repeat_ngram=2000))
    batch.join([said.row])
    steps = drain(batch)
    assert said.end() == ("start la", Finish.LOOP)
    assert steps < 450


def test_stop_strings_end_a_row() -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    said = Said(model, "one STOP two", DecodeParams(stop=("STOP",)))
    batch.join([said.row])
    drain(batch)
    assert said.end() == ("one ", Finish.STOP)


def test_no_repeat_ngram_sees_the_whole_history() -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    said = Said(model, "aaaa", DecodeParams(no_repeat_ngram=2, max_new_tokens=4))
    batch.join([said.row])
    drain(batch)
    tokens = said.outcome.tokens if said.outcome else ()
    pairs = list(pairwise(tokens))
    assert len(pairs) == len(set(pairs)) and tokens[:2] == tuple(ids("aa"))


def test_one_bad_picture_of_a_group_fails_alone() -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    good, bad, other = Said(model, "good"), Said(model, "bad", poison=True), Said(model, "other")
    batch.join([good.row, bad.row, other.row])
    drain(batch)
    assert good.end() == ("good", Finish.EOS) and other.end() == ("other", Finish.EOS)
    assert bad.end()[1] is Finish.ERROR


def test_tokens_that_cannot_be_spelled_end_their_row_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    said = Said(model, "text")
    monkeypatch.setattr(said.row._text, "finish", lambda tokens: 1 / 0)
    batch.join([said.row])
    drain(batch)
    assert said.end()[1] is Finish.ERROR


def test_a_row_cancelled_before_it_joins_costs_nothing() -> None:
    model = fake_model([])
    batch = DecodeBatch(model)
    said = Said(model, "text")
    said.cancel.set()
    batch.join([said.row])
    assert said.end() == ("", Finish.CANCELLED)
    assert graph(model).prefills == []
