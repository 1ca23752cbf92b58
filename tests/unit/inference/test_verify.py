"""Drafts: whatever is proposed, the row says what it says without; only the number of passes differs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import mlx.core as mx
import pytest

from ocr_mlx.domain import DecodeParams, Finish
from ocr_mlx.inference.batch import DecodeBatch
from ocr_mlx.inference.stopping import RowOutcome
from ocr_mlx.inference.verify import MOST, Rounding
from ocr_mlx.model.base import LoadedModel
from tests.unit.fakes import EOS, VOCABULARY, ids
from tests.unit.inference.talking import (
    PROMPT,
    Heard,
    Rule,
    Said,
    graph,
    hear,
    looping,
    run,
    script,
    talking_model,
)
from tests.unit.inference.test_loops import HEAD, THEN, unit_of, vague

TEXT = ids("What a born-digital page says is known before it is read, word for word, and so it drafts itself. ") * 2


class Scripted:
    """Proposes what `say` makes of what was said; keeps how the proposals fared."""

    def __init__(self, say: Callable[[Said], Sequence[int]]) -> None:
        self.say = say
        self.silent = False
        self.fared: list[tuple[int, int]] = []

    def propose(self, tokens: Said, most: int) -> Sequence[int]:
        assert 1 <= most <= MOST
        return self.say(tokens)[:most]

    def verified(self, proposed: int, accepted: int) -> None:
        assert 0 <= accepted <= proposed > 0
        self.fared.append((proposed, accepted))


def knows(tokens: Sequence[int]) -> Scripted:
    """A drafter that has these tokens."""
    return Scripted(lambda said: tokens[len(said) :])


def guesses(tokens: Sequence[int], seed: int, right: float) -> Scripted:
    """A drafter of which each token is right that often, and that has no idea one time in five."""
    draw = random.Random(seed)

    def say(said: Said) -> list[int]:
        if draw.random() < 0.2:
            return []
        rest = [*tokens[len(said) :], EOS, *([9] * 20)]
        return [t if draw.random() < right else draw.randrange(VOCABULARY) for t in rest[: draw.randrange(1, 20)]]

    return Scripted(say)


def calm(model: LoadedModel) -> LoadedModel:
    """The model's rounding has been measured, and there is hardly any."""
    rounding = Rounding()
    for size in range(1, 4096):
        if rounding.must_measure(size):
            rounding.measured(mx.zeros((1, 1, 8)), mx.zeros((1, 1, 8)), size)
    model.kept["rounding"] = rounding
    return model


def same(found: RowOutcome, wanted: RowOutcome) -> None:
    """All of it but how it was come by."""
    assert (found.tokens, found.text, found.finish) == (wanted.tokens, wanted.text, wanted.finish)
    assert found.logprobs == pytest.approx(wanted.logprobs, abs=0.05)
    assert (found.recovered, str(found.error)) == (wanted.recovered, str(wanted.error))


def test_a_draft_that_is_right_takes_few_passes() -> None:
    model = calm(talking_model())
    wanted = hear(model, Heard(model, script(TEXT)))[0]
    graph(model).passes.clear()
    drafter = knows(TEXT)
    found = hear(model, Heard(model, script(TEXT), drafter=drafter))[0]
    same(found, wanted)
    assert len(graph(model).passes) == found.decode_steps == -(-len(TEXT) // (MOST + 1))
    assert wanted.decode_steps == len(TEXT) and wanted.drafted == wanted.accepted == 0
    assert found.drafted == found.accepted == sum(p for p, _ in drafter.fared)
    assert all(proposed == accepted for proposed, accepted in drafter.fared)


def test_measuring_costs_one_pass_each_and_never_more() -> None:
    model = talking_model()
    found = hear(model, Heard(model, script(TEXT), drafter=knows(TEXT)))[0]
    assert found.decode_steps < len(TEXT) and found.tokens == tuple(TEXT)
    fresh = talking_model()
    bad = hear(fresh, Heard(fresh, script(TEXT), drafter=Scripted(lambda said: [9] * 15)))[0]
    assert len(TEXT) < bad.decode_steps < len(TEXT) + 8 and bad.tokens == tuple(TEXT)


@pytest.mark.parametrize("seed", range(24))
def test_any_drafts_in_any_company_say_what_is_said_without(seed: int) -> None:
    draw = random.Random(seed)
    model = talking_model()
    graph(model).noise = draw.choice([0.0, 0.01])
    rules, drafters, params = [], [], []
    for i in range(draw.randrange(1, 7)):
        letters = draw.choice([38, 125, 125])
        text = [draw.randrange(35, letters) for _ in range(draw.randrange(1, 120))]
        rules.append(narrow(text, draw.choice([0.002, 0.005, 0.5])))
        right = draw.choice([0.0, 0.5, 0.9, 1.0])
        drafters.append(guesses(text, seed * 10 + i, right) if draw.random() < 0.7 else None)
        guard = {"no_repeat_ngram": draw.choice([0, 0, 2, 3, 5]), "ngram_window": draw.choice([0, 20])}
        params.append(DecodeParams(max_new_tokens=draw.choice([300, 40]), **guard))
    alone = [hear(model, Heard(model, rule, p))[0] for rule, p in zip(rules, params, strict=True)]
    rows = [Heard(model, rule, p, d) for rule, p, d in zip(rules, params, drafters, strict=True)]
    batch = DecodeBatch(model)
    for row in rows:
        batch.join([row.row])
        for _ in range(draw.randrange(6)):
            batch.step()
    run(batch)
    for row, wanted in zip(rows, alone, strict=True):
        same(row.end, wanted)


def narrow(tokens: Sequence[int], lead: float) -> Rule:
    """Says the tokens; every third one leads by little, which a pass over many tokens turns round."""

    def rule(said: Said) -> dict[int, float]:
        token = tokens[len(said)] if len(said) < len(tokens) else EOS
        other = token + 1 if token % 2 == 0 else token - 1
        return {token: 10.0, other: 10.0 - lead} if len(said) % 3 == 0 else {token: 10.0}

    return rule


@pytest.mark.parametrize("lead", [0.015, 0.001])
def test_a_lead_within_the_rounding_is_decoded_alone(lead: float) -> None:
    even = [36 + 2 * (i % 40) for i in range(90)]  # noise lifts the odd neighbour above each
    model = talking_model()
    graph(model).noise = 0.01
    rule = narrow(even, lead)
    wanted = hear(model, Heard(model, rule))[0]
    found = hear(model, Heard(model, rule, drafter=knows(even)))[0]
    same(found, wanted)
    assert found.tokens == tuple(even)
    assert found.decode_steps < len(even), "what is clear is still taken"


def test_without_the_margin_the_text_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rounding, "lead", lambda self, tops: mx.full(tops.shape, -1.0))
    even = [36 + 2 * (i % 40) for i in range(90)]
    model = calm(talking_model())
    graph(model).noise = 0.01
    assert hear(model, Heard(model, narrow(even, 0.001), drafter=knows(even)))[0].tokens != tuple(even)


def test_the_lead_that_is_needed_grows_with_what_was_measured_and_with_the_logits() -> None:
    rounding = Rounding()
    one, other = mx.zeros((1, 2, 4)), mx.array([[[0.0, 0.25, -mx.inf, 0.0], [0.0] * 4]])
    assert rounding.must_measure(8)
    rounding.measured(one, other, 8)
    assert rounding.lead(mx.array([1.0])).item() >= 4 * 0.25
    assert rounding.lead(mx.array([1e9])).item() > 100
    half = Rounding()
    half.measured(one.astype(mx.bfloat16), one.astype(mx.bfloat16), 8)
    assert half.lead(mx.array([16.0])).item() >= 0.125


def test_ends_inside_a_draft_are_ends() -> None:
    model = calm(talking_model())
    beyond = [*TEXT[:20], EOS, *TEXT[20:]]
    assert hear(model, Heard(model, script(TEXT[:20]), drafter=knows(beyond)))[0].tokens == tuple(TEXT[:20])
    params = DecodeParams(max_new_tokens=23)
    end = hear(model, Heard(model, script(TEXT), params, knows(TEXT)))[0]
    assert (end.tokens, end.finish) == (tuple(TEXT[:23]), Finish.LENGTH)
    stop = DecodeParams(stop=("digital",))
    wanted = hear(model, Heard(model, script(TEXT), stop))[0]
    found = hear(model, Heard(model, script(TEXT), stop, knows(TEXT)))[0]
    same(found, wanted)
    assert found.finish is Finish.STOP and found.text == "What a born-"


@pytest.mark.parametrize("positions", [PROMPT + 5, PROMPT + 17, PROMPT + 40])
def test_nothing_is_written_beyond_the_models_positions(positions: int) -> None:
    model = calm(talking_model())
    graph(model).max_positions = positions
    late = Heard(model, script(TEXT), drafter=knows(TEXT))
    short = Heard(model, script(TEXT[3:]), drafter=knows(TEXT[3:]))
    batch = DecodeBatch(model)
    batch.join([late.row])
    batch.step()
    batch.join([short.row])
    run(batch)
    assert late.end.tokens == tuple(TEXT[: positions - PROMPT]) and late.end.finish is Finish.LENGTH
    assert short.end.tokens == tuple(TEXT[3 : 3 + positions - PROMPT])


@pytest.mark.parametrize("then", [THEN, []], ids=["broken", "not broken"])
def test_a_loop_inside_accepted_tokens_is_taken_back_as_ever(then: list[int]) -> None:
    model, unit = calm(talking_model()), unit_of(7)
    rule = looping(HEAD, unit, then)
    endless = HEAD + unit * 200
    wanted = hear(model, Heard(model, rule))[0]
    found = hear(model, Heard(model, rule, drafter=knows(endless)))[0]
    same(found, wanted)
    assert found.decode_steps < wanted.decode_steps


def test_cancel_inside_an_accepted_run_ends_it_there() -> None:
    model = calm(talking_model())
    heard = Heard(model, script(TEXT), drafter=knows(TEXT))
    stays = Heard(model, script(TEXT[::-1]))
    heard.row._on_text = lambda delta, tokens: heard.cancel.set() if len(heard.row.tokens) == 9 else None
    batch = DecodeBatch(model)
    batch.join([heard.row, stays.row])
    batch.step()
    batch.step()
    assert heard.outcome is not None and heard.outcome.finish is Finish.CANCELLED
    assert heard.outcome.tokens == tuple(TEXT[:9])
    assert len(batch.rows) == 1
    run(batch)
    assert stays.end.tokens == tuple(TEXT[::-1])


def test_rows_under_an_ngram_guard_are_drafted_too_and_keep_to_it() -> None:
    model = calm(talking_model())
    text = TEXT * 3
    params = DecodeParams(no_repeat_ngram=20, ngram_whitelist=(text[7],), max_new_tokens=500)
    wanted = hear(model, Heard(model, script(text), params))[0]
    assert wanted.tokens != tuple(text), "the guard bites"
    found = hear(model, Heard(model, script(text), params, knows(text)))[0]
    same(found, wanted)
    assert found.accepted > 60 and found.decode_steps < wanted.decode_steps


def test_rows_that_are_drawn_or_penalised_see_no_pass_over_drafts() -> None:
    model = calm(talking_model())
    for params in (DecodeParams(temperature=0.9, seed=4), DecodeParams(repetition_penalty=1.1)):
        wanted = hear(model, Heard(model, vague(TEXT), params))[0]
        graph(model).passes.clear()
        other = Heard(model, vague(TEXT), params, knows(TEXT))
        same(hear(model, other, Heard(model, script(TEXT[:50]), drafter=knows(TEXT)))[0], wanted)
        assert {count for rows, count in graph(model).passes if rows == 2} == {1}
        assert other.end.drafted == 0


def test_a_drafter_that_raises_or_proposes_what_there_is_not_costs_only_itself() -> None:
    model = calm(talking_model())

    def fails(said: Said) -> list[int]:
        raise LookupError("a word of the page")

    odd = Scripted(lambda said: [TEXT[len(said)], VOCABULARY + 5, -1] if len(said) + 1 < len(TEXT) else [-1])
    ends = hear(
        model,
        Heard(model, script(TEXT), drafter=Scripted(fails)),
        Heard(model, script(TEXT), drafter=odd),
    )
    assert [end.tokens for end in ends] == [tuple(TEXT)] * 2
    assert ends[0].drafted == 0 and ends[1].accepted == ends[1].drafted > 0


def test_a_silent_drafter_is_waited_for_no_more() -> None:
    model = calm(talking_model())
    drafter = knows(TEXT)
    drafter.silent = True
    batch = DecodeBatch(model)
    heard = Heard(model, script(TEXT), drafter=drafter)
    batch.join([heard.row])
    batch.step()
    assert not heard.row.awaited
    run(batch)
    assert heard.end.tokens == tuple(TEXT) and heard.end.drafted == 0


def test_numbers_that_are_not_finite_fail_their_row_in_a_pass_over_drafts_too() -> None:
    model = calm(talking_model())
    heard = Heard(
        model,
        lambda said: {TEXT[0]: float("nan") if len(said) > 4 else 10.0},
        drafter=Scripted(lambda s: [TEXT[0]] * 9),
    )
    good = Heard(model, script(TEXT), drafter=knows(TEXT))
    ends = hear(model, heard, good)
    assert ends[0].finish is Finish.ERROR and "not finite" in str(ends[0].error) and len(ends[0].tokens) == 5
    assert ends[1].tokens == tuple(TEXT)


def test_rows_of_a_fixed_width_verify_nothing() -> None:
    model = calm(talking_model())
    batch = DecodeBatch(model, width=4)
    rows = [Heard(model, script(TEXT[i:]), drafter=knows(TEXT[i:])) for i in range(3)]
    batch.join([row.row for row in rows])
    run(batch)
    assert set(graph(model).passes) == {(4, 1)} and graph(model).prefills == [1, 1, 1]
    assert [row.end.tokens for row in rows] == [tuple(TEXT[i:]) for i in range(3)]


def test_a_row_at_its_last_positions_shortens_the_others_drafts() -> None:
    model = calm(talking_model())
    graph(model).max_positions = PROMPT + 30
    slow, fast = Heard(model, script(TEXT)), Heard(model, script(TEXT), drafter=knows(TEXT))
    batch = DecodeBatch(model)
    batch.join([slow.row])
    while len(slow.row.tokens) < 27:
        batch.step()
    batch.join([fast.row])
    graph(model).passes.clear()
    run(batch)
    assert slow.end.tokens == fast.end.tokens == tuple(TEXT[:30])
    assert max(count for _, count in graph(model).passes) > 1
