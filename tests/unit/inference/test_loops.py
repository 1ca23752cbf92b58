"""Loops: found, taken back, tried again once under a guard; what was before them never changes."""

from __future__ import annotations

import random

import pytest

from ocr_mlx.domain import DecodeParams, Finish
from ocr_mlx.inference import guard
from ocr_mlx.inference.batch import DecodeBatch
from ocr_mlx.inference.guard import GUARD_NGRAM, MAX_PERIOD, MIN_TOKENS, guarded, loop_start
from tests.unit.fakes import EOS, ids
from tests.unit.inference.talking import Heard, Rule, Said, graph, hear, looping, plain, run, script, talking_model

HEAD = ids("This page begins like any other and says so in a sentence or two. ")
THEN = ids("And then it goes on with something else. ")


def unit_of(period: int) -> list[int]:
    """That many tokens of which no shorter stretch is repeated; none of them begins THEN."""
    letters = [token for token in range(36, 129) if token != THEN[0]]
    return [letters[i % len(letters)] if i != period - 1 else 129 for i in range(period)]


@pytest.mark.parametrize("head", [HEAD, []], ids=["after good text", "from the beginning"])
@pytest.mark.parametrize("period", [1, 2, 7, 8, 33, 128])
def test_a_loop_that_the_guard_breaks_is_taken_back_and_the_page_goes_on(period: int, head: list[int]) -> None:
    model, unit = talking_model(), unit_of(period)
    heard = Heard(model, looping(head, unit, THEN))
    end = hear(model, heard)[0]
    good = head + unit
    assert end.finish is Finish.EOS and end.recovered
    assert end.tokens[: len(good)] == tuple(good)
    assert end.tokens[-len(THEN) :] == tuple(THEN)
    assert len(end.tokens) < len(good) + GUARD_NGRAM + len(THEN), "the guard lets little of a second round through"
    assert len(heard.rewinds) == 1


def test_loops_of_all_lengths_recover_in_one_batch() -> None:
    model = talking_model()
    periods = [*range(1, MAX_PERIOD, 9), MAX_PERIOD]
    ends = hear(model, *(Heard(model, looping(HEAD[:9], unit_of(period), THEN)) for period in periods))
    assert all(end.recovered and end.finish is Finish.EOS for end in ends)
    assert all(end.tokens[: 9 + p] == tuple(HEAD[:9] + unit_of(p)) for p, end in zip(periods, ends, strict=True))


@pytest.mark.parametrize("period", [1, 8, 90])
def test_a_loop_that_comes_back_ends_the_row_as_if_it_had_never_been_tried_again(period: int) -> None:
    model, unit = talking_model(), unit_of(period)
    heard = Heard(model, looping(HEAD, unit))
    end = hear(model, heard)[0]
    assert (end.finish, end.recovered) == (Finish.LOOP, False)
    assert end.tokens == tuple(HEAD + unit)
    assert heard.rewinds, "what was let out and does not stay is taken back"


def test_a_loop_inside_a_table() -> None:
    head = ids("<table><tr><td>1</td><td>Flour</td></tr>")
    unit = ids("<tr><td></td><td></td></tr>")
    model = talking_model()
    end = hear(model, Heard(model, looping(head, unit, ids("Total"))))[0]
    assert end.recovered and end.text == "<table><tr><td>1</td><td>Flour</td></tr><tr><td></td><td>Total"


NOVEL = random.Random(3).choices(range(61, 125), k=900)


def two_loops(said: list[int]) -> dict[int, float]:
    first = ids("la ")
    if 60 not in said:
        return {first[len(said) % 3]: 10.0, 60: 9.0}
    since = said[::-1].index(60)
    return {NOVEL[since]: 10.0} if since < len(NOVEL) else {(125, 126)[since % 2]: 10.0}


def test_a_second_loop_further_on_is_the_end_and_what_is_between_them_stays() -> None:
    model = talking_model()
    end = hear(model, Heard(model, two_loops))[0]  # type: ignore[arg-type]
    assert (end.finish, end.recovered) == (Finish.LOOP, False)
    assert end.tokens[:3] == tuple(ids("la ")) and end.tokens[-2:] == (125, 126)
    assert end.tokens.index(125) > 900 and end.tokens.count(125) == 1


def test_one_row_of_many_loops_and_its_neighbours_keep_their_bytes() -> None:
    texts = ["".join(random.Random(i).choices("abcdefgh ijk lmn", k=380 + 40 * i)) for i in range(7)]
    params = [DecodeParams(temperature=0.8, seed=i) if i % 3 == 2 else DecodeParams() for i in range(7)]
    rules: list[Rule] = [vague(ids(text)) for text in texts]
    model = talking_model()
    alone = [hear(model, Heard(model, rule, p))[0] for rule, p in zip(rules, params, strict=True)]
    crowd = [Heard(model, rule, p) for rule, p in zip(rules, params, strict=True)]
    loops = [Heard(model, looping(HEAD, unit_of(5), THEN)), Heard(model, looping([], unit_of(3)))]
    ends = hear(model, *crowd[:3], loops[0], *crowd[3:], loops[1])
    assert loops[0].end.recovered and loops[1].end.finish is Finish.LOOP
    together = [*ends[:3], *ends[4:8]]
    assert [(e.tokens, e.logprobs, e.text, e.finish) for e in together] == [
        (e.tokens, e.logprobs, e.text, e.finish) for e in alone
    ]


def vague(tokens: list[int]) -> Rule:
    """Says the tokens; drawn ones may differ a little."""
    return lambda said: {tokens[len(said)]: 6.0, 40 + len(said) % 50: 4.0} if len(said) < len(tokens) else {EOS: 20.0}


@pytest.mark.parametrize(
    "text",
    [
        "Chapter one " + "." * 300 + " 7",
        "Chapter one " + ". " * 150 + " 7",
        "|" + "-" * 120 + "|" + "-" * 120 + "|" + "-" * 120 + "|\nTotal",
        "Balance\n" + "0.00\n" * 70 + "Total 0.00",
        "I will not talk in class.\n" * 14 + "Signed, a pupil",
        "<tr><td></td><td></td></tr>" * 12 + "<tr><td>sum</td></tr>",
    ],
    ids=["dots", "spaced dots", "rules", "zeros", "lines", "rows"],
)
def test_what_repeats_itself_and_ends_is_no_loop(text: str) -> None:
    model = talking_model()
    end = hear(model, Heard(model, script(ids(text))))[0]
    assert (end.text, end.finish, end.recovered) == (text, Finish.EOS, False)


def test_pages_that_never_loop_keep_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(5)
    words = ["the", "0", "0.00", "....", "|", "---", "\n", "and", "<td></td>", "é", "§"]
    texts = ["".join(draw.choices(words, k=draw.randrange(1, 150))) for _ in range(24)]
    model = talking_model()
    watched = hear(model, *(Heard(model, script(ids(text))) for text in texts))
    monkeypatch.setattr(guard, "loop_start", lambda tokens, **_: None)
    unwatched = hear(model, *(Heard(model, script(ids(text))) for text in texts))
    assert [(e.tokens, e.logprobs, e.text) for e in watched] == [(e.tokens, e.logprobs, e.text) for e in unwatched]
    assert [end.text for end in watched] == texts


def test_a_row_cut_off_by_its_limit_inside_a_loop_is_a_loop() -> None:
    model = talking_model()
    params = DecodeParams(max_new_tokens=120)
    tokens, finish = plain(model, looping(HEAD[:20], unit_of(4)), params)
    assert (tokens, finish) == (tuple(HEAD[:20] + unit_of(4)), Finish.LOOP)
    end = hear(model, Heard(model, looping(HEAD[:20], unit_of(4), THEN), params))[0]
    assert end.finish is Finish.EOS and end.recovered and end.tokens[-len(THEN) :] == tuple(THEN)
    assert plain(model, script(HEAD), DecodeParams(max_new_tokens=40)) == (tuple(HEAD[:40]), Finish.LENGTH)


class At:
    """A family's test that calls out once, at its `count`th token."""

    def __init__(self, count: int, keep: int) -> None:
        self.count, self.keep, self.seen = count, keep, 0

    def update(self, token: int, max_logit: float) -> int | None:
        self.seen += 1
        return self.keep if self.seen == self.count else None


def test_a_familys_test_takes_back_too_and_looks_anew_at_what_comes_then() -> None:
    model = talking_model()
    model.processor.make_test = lambda: At(40, 25)  # type: ignore[attr-defined]
    end = hear(model, Heard(model, script(HEAD[:60])))[0]
    # taken back to 25 at the 40th, and called again 40 tokens later, where 25 of them are good
    assert end.finish is Finish.EOS and end.recovered and end.tokens == tuple(HEAD[:60])
    again = hear(model, Heard(model, script([*HEAD, *THEN])))[0]
    assert (again.finish, again.tokens) == (Finish.LOOP, tuple(HEAD[:25]))


def test_a_familys_test_that_does_not_know_since_when_ends_the_row_where_no_loop_is_to_be_seen() -> None:
    model = talking_model()
    model.processor.make_test = lambda: At(50, 50)  # type: ignore[attr-defined]
    assert plain(model, script(HEAD)) == (tuple(HEAD[:50]), Finish.LOOP)
    end = hear(model, Heard(model, looping(HEAD[:10], unit_of(3), THEN)))[0]
    assert end.recovered and end.tokens[:13] == tuple(HEAD[:10] + unit_of(3))


def test_nothing_of_a_row_that_was_never_good_stays() -> None:
    model = talking_model()
    model.processor.make_test = lambda: At(60, 0)  # type: ignore[attr-defined]
    end = hear(model, Heard(model, looping([], unit_of(2))))[0]
    assert (end.tokens, end.text, end.finish) == ((), "", Finish.LOOP)


def test_the_second_try_is_under_the_familys_guard_where_it_has_one() -> None:
    family = DecodeParams(no_repeat_ngram=20, ngram_window=90, ngram_whitelist=(7,))
    free = DecodeParams(max_new_tokens=99)
    tried = guarded(free, family)
    assert tried is not None and (tried.no_repeat_ngram, tried.ngram_window, tried.ngram_whitelist) == (20, 90, (7,))
    assert tried.max_new_tokens == 99
    general = guarded(free, DecodeParams())
    assert general is not None and general.no_repeat_ngram == GUARD_NGRAM
    wider = guarded(family, family)
    assert wider is not None and (wider.no_repeat_ngram, wider.ngram_window) == (20, 0)
    assert guarded(DecodeParams(no_repeat_ngram=20), family) is None


def test_a_row_that_loops_under_a_guard_of_the_whole_text_just_ends() -> None:
    model = talking_model(no_repeat_ngram=300)
    heard = Heard(model, looping(HEAD, unit_of(1)), DecodeParams(no_repeat_ngram=1000))
    assert (hear(model, heard)[0].finish, heard.end.tokens) == (Finish.LOOP, tuple(HEAD + unit_of(1)))
    assert sum(count for _, count in graph(model).passes) < len(HEAD) + MIN_TOKENS + 2 * 16


def test_the_guard_is_let_go_behind_the_stretch_that_was_taken_back() -> None:
    tail = ids("0.00 " * 60)  # repeats itself as the guard would never let it
    model = talking_model()
    end = hear(model, Heard(model, looping(HEAD, unit_of(6), [THEN[0], *NOVEL, *tail])))[0]
    assert end.recovered and end.finish is Finish.EOS and end.tokens[-len(tail) :] == tuple(tail)


def test_penalties_of_the_row_go_on_where_it_was_taken_back() -> None:
    model = talking_model()
    end = hear(model, Heard(model, looping(HEAD, unit_of(9), THEN), DecodeParams(repetition_penalty=1.05)))[0]
    assert end.recovered and end.finish is Finish.EOS
    assert end.tokens[: len(HEAD) + 9] == tuple(HEAD + unit_of(9))


def test_rows_that_join_after_a_loop_was_taken_back_are_read_as_ever() -> None:
    model = talking_model()
    batch = DecodeBatch(model)
    first, second = Heard(model, looping(HEAD, unit_of(5), THEN)), Heard(model, script(HEAD))
    batch.join([first.row])
    while not first.row.retried:
        batch.step()
    batch.join([second.row])
    run(batch)
    assert first.end.recovered and second.end.tokens == tuple(HEAD)


@pytest.mark.parametrize("period", range(1, MAX_PERIOD + 1))
def test_the_first_round_is_kept(period: int) -> None:
    head = list(range(1000, 1050))
    loop = list(range(period)) * (1200 // period)
    assert loop_start(head + loop) == len(head) + period
    assert loop_start(head + loop + [5000]) is None


def test_a_sampled_row_that_looped_goes_on_the_same_in_any_company() -> None:
    """A neighbour that must be waited for keeps the batch from computing a step that the loop makes void."""
    loop = looping(HEAD, unit_of(3), THEN)

    def rule(said: Said) -> dict[int, float]:
        tail = list(said[len(HEAD) :])
        if THEN[0] not in tail:
            return {token: 10 * score for token, score in loop(said).items()}
        return dict.fromkeys(range(70, 100), 10.0) if len(tail) - tail.index(THEN[0]) <= 40 else {EOS: 100.0}

    def read(*company: Rule) -> tuple[int, ...]:
        model = talking_model()
        others = [Heard(model, other, DecodeParams(no_repeat_ngram=100)) for other in company]
        first = hear(model, Heard(model, rule, DecodeParams(temperature=0.5, seed=7)), *others)[0]
        assert first.recovered and len(first.tokens) > 100
        return first.tokens

    assert read() == read(script(NOVEL))
