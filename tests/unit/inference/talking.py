"""A family whose next token depends on what was said: for loops, guards, and drafts that are verified.

A rule is given all that a row has said and scores the tokens that may come next; every other token scores 0.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from ocr_mlx.domain import DecodeParams, Finish
from ocr_mlx.inference.batch import DecodeBatch
from ocr_mlx.inference.stopping import Row, RowOutcome
from ocr_mlx.model.base import LoadedModel, ModelInputs
from tests.unit.fakes import EOS, VOCABULARY, fake_model

Said = Sequence[int]
Rule = Callable[[Said], dict[int, float]]
PROMPT = 3


class TalkState:
    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules
        self.said: list[list[int]] = [[] for _ in rules]

    @property
    def rows(self) -> int:
        return len(self.rules)

    @property
    def nbytes(self) -> int:
        return sum(PROMPT + len(said) for said in self.said)

    def arrays(self) -> list[mx.array]:
        return []

    def merge(self, other: TalkState) -> None:
        self.rules += other.rules
        self.said += other.said

    def keep(self, rows: Sequence[int]) -> None:
        self.rules = [self.rules[i] for i in rows]
        self.said = [list(self.said[i]) for i in rows]

    def trim(self, counts: Sequence[int]) -> None:
        assert len(counts) == self.rows
        for said, count in zip(self.said, counts, strict=True):
            assert 0 <= count <= len(said), "only what was said can be forgotten"
            del said[len(said) - count :]

    def stand_apart(self) -> None:
        pass


class TalkGraph:
    """`noise` is how far the logits of a pass over several tokens stray; `passes` are (rows, tokens of each)."""

    def __init__(self) -> None:
        self.max_positions = 4096
        self.noise = 0.0
        self.passes: list[tuple[int, int]] = []
        self.prefills: list[int] = []

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        return weights

    def prefill(self, inputs: Sequence[ModelInputs]) -> tuple[mx.array, TalkState]:
        self.prefills.append(len(inputs))
        state = TalkState([row.extras["rule"] for row in inputs])
        return mx.array(np.stack([_logits(rule(())) for rule in state.rules])), state

    def decode(self, tokens: mx.array, state: TalkState) -> mx.array:
        given = np.asarray(tokens)
        self.passes.append(given.shape)
        assert given.shape[0] == state.rows
        out = np.zeros((*given.shape, VOCABULARY), dtype=np.float32)
        for i, said in enumerate(state.said):
            for k, token in enumerate(given[i].tolist()):
                said.append(token)
                assert PROMPT + len(said) <= self.max_positions, "written beyond the model's positions"
                out[i, k] = _logits(state.rules[i](said))
        if given.shape[1] > 1 and self.noise:
            sign = np.where(np.arange(VOCABULARY) % 2, 1.0, -1.0).astype(np.float32)
            out += np.float32(self.noise) * sign
        return mx.array(out)


def _logits(scores: dict[int, float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    row = np.zeros(VOCABULARY, dtype=np.float32)
    for token, score in scores.items():
        row[token] = score
    return row


def talking_model(**defaults: Any) -> LoadedModel:
    """A loaded model of this family; `defaults` are the family's decode options."""
    model = fake_model([])
    return replace(model, graph=TalkGraph(), kept={}, family=replace(model.family, defaults=DecodeParams(**defaults)))


def graph(model: LoadedModel) -> TalkGraph:
    assert isinstance(model.graph, TalkGraph)
    return model.graph


class Heard:
    """A row, and what is heard of it: `told` is the text as somebody has it who follows deltas and rewinds."""

    def __init__(
        self, model: LoadedModel, rule: Rule, params: DecodeParams | None = None, drafter: Any = None, **inputs: Any
    ) -> None:
        self.told = ""
        self.rewinds: list[int] = []
        self.outcome: RowOutcome | None = None
        self.cancel = threading.Event()
        self.row = Row(
            model,
            ModelInputs(token_ids=(1,) * PROMPT, pixels=None, extras={"rule": rule, **inputs}, prompt_tokens=PROMPT),
            params or DecodeParams(),
            on_text=self._text,
            on_rewind=self._rewind,
            on_done=self._done,
            cancel=self.cancel,
            drafter=drafter,
        )

    def _text(self, delta: str, tokens: int) -> None:
        assert tokens >= 0
        self.told += delta

    def _rewind(self, length: int) -> None:
        assert 0 <= length < len(self.told)
        self.rewinds.append(length)
        self.told = self.told[:length]

    def _done(self, outcome: RowOutcome) -> None:
        assert self.outcome is None, "a row ends once"
        self.outcome = outcome

    @property
    def end(self) -> RowOutcome:
        """How it ended; the text that was told is the text of the outcome."""
        assert self.outcome is not None
        assert self.told == self.outcome.text
        assert len(self.outcome.logprobs) == len(self.outcome.tokens)
        return self.outcome


def run(batch: DecodeBatch, most: int = 10_000) -> int:
    """Step until all rows have ended: how many steps."""
    steps = 0
    while batch.rows:
        batch.step()
        steps += 1
        assert steps < most
    return steps


def hear(model: LoadedModel, *heard: Heard) -> list[RowOutcome]:
    """Decode rows together to their ends."""
    batch = DecodeBatch(model)
    batch.join([one.row for one in heard])
    run(batch)
    assert batch.cache_bytes == 0
    return [one.end for one in heard]


def script(tokens: Sequence[int]) -> Rule:
    """Says these tokens, whatever it is made to say in between, and ends."""
    return lambda said: {tokens[len(said)] if len(said) < len(tokens) else EOS: 10.0}


def looping(head: Sequence[int], unit: Sequence[int], then: Sequence[int] = ()) -> Rule:
    """Says `head`, then `unit` over and over; once it is kept from that, `then`, and ends.

    Without `then` it takes up the unit again, whatever it is made to say.
    """

    def rule(said: Said) -> dict[int, float]:
        place = len(said)
        if place < len(head):
            return {head[place]: 10.0}
        loop = 0
        while len(head) + loop < place and said[len(head) + loop] == unit[loop % len(unit)]:
            loop += 1
        tail = list(said[len(head) + loop :])
        following = unit[loop % len(unit)]
        if not then:
            last = said[-1] if said else None
            following = unit[(unit.index(last) + 1) % len(unit)] if last in unit else unit[0]
            return {following: 10.0} | {
                token: 1.0 + token / 1000 for token in range(3, VOCABULARY) if token != following
            }
        if not tail:
            return {following: 10.0, then[0]: 9.0}
        if tail == list(then[: len(tail)]) and len(tail) < len(then):
            return {then[len(tail)]: 10.0}
        return {EOS: 10.0}

    return rule


def plain(model: LoadedModel, rule: Rule, params: DecodeParams | None = None) -> tuple[tuple[int, ...], Finish]:
    """What a rule says alone."""
    outcome = hear(model, Heard(model, rule, params))[0]
    return outcome.tokens, outcome.finish
