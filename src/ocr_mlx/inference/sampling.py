"""Logits to tokens, for a batch of rows that may each want something else.

Greedy rows share one vectorised pass. A row with a temperature, a penalty or an n-gram guard is handled by itself, so what
one row asks for never touches its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import mlx.core as mx

from ocr_mlx.domain import DecodeParams
from ocr_mlx.inference.constrain import Constraint
from ocr_mlx.model.layers.host import logsumexp

NOTHING: Final = -1
"""What a constrained row chooses where no token is left for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One step's outcome for B rows, not evaluated yet.

    `tokens` int32 [B]; `logprobs` float32 [B] under the model's own distribution (no temperature, no penalty, no
    constraint); `max_logits` float32 [B].
    """

    tokens: mx.array
    logprobs: mx.array
    max_logits: mx.array

    def arrays(self) -> list[mx.array]:
        """What to evaluate."""
        return [self.tokens, self.logprobs, self.max_logits]

    def take(self, rows: Sequence[int]) -> Choice:
        """The same for some of the rows."""
        index = mx.array(list(rows), dtype=mx.int32)
        return Choice(tokens=self.tokens[index], logprobs=self.logprobs[index], max_logits=self.max_logits[index])

    def put(self, rows: Sequence[int], other: Choice) -> Choice:
        """The same with `other`, one entry for each of `rows`, in these rows' places."""
        index = mx.array(list(rows), dtype=mx.int32)

        def replaced(old: mx.array, new: mx.array) -> mx.array:
            fresh = mx.array(old)
            fresh[index] = new
            return fresh

        return Choice(
            tokens=replaced(self.tokens, other.tokens),
            logprobs=replaced(self.logprobs, other.logprobs),
            max_logits=replaced(self.max_logits, other.max_logits),
        )


def concatenate(choices: Sequence[Choice]) -> Choice:
    """Several batches' choices as one, in order."""
    if len(choices) == 1:
        return choices[0]
    return Choice(
        tokens=mx.concatenate([c.tokens for c in choices]),
        logprobs=mx.concatenate([c.logprobs for c in choices]),
        max_logits=mx.concatenate([c.max_logits for c in choices]),
    )


class Sampler:
    """One row's way to choose: its random stream, its recent tokens, and what it is held to.

    `recent` stays on the device, so a penalised row can still be computed one step ahead.
    """

    def __init__(self, params: DecodeParams, constraint: Constraint | None = None) -> None:
        self.params = params
        self._constraint = constraint
        self._key = mx.random.key(params.seed) if params.seed is not None else None
        self._recent: mx.array | None = None

    @property
    def plain(self) -> bool:
        """Whether the row is plain greedy and may share the vectorised pass."""
        return self.greedy and self.params.no_repeat_ngram == 0

    @property
    def greedy(self) -> bool:
        """Whether the next token is the likeliest of those that `banned` leaves, and nothing else counts."""
        free = self.params.repetition_penalty == 1.0 and self._constraint is None
        return self.params.temperature <= 0 and free

    @property
    def needs_history(self) -> bool:
        """Whether the next choice depends on tokens that must first be read back to the host."""
        return self.params.no_repeat_ngram > 0 or self._constraint is not None

    def choose(self, logits: mx.array, history: Sequence[int]) -> mx.array:
        """`logits` float32 [V] -> one token, int32 []. `history` are this row's tokens so far.

        The constraint, where there is one, must have taken all of them; NOTHING where it leaves no token.
        """
        params = self.params
        logits = self._penalize(logits)
        if self._constraint is not None:
            logits = mx.where(mx.array(self._constraint.allowed(logits.shape[-1])), logits, -mx.inf)
        if params.no_repeat_ngram > 0:
            logits = self._unrepeated(logits, history)
        token = mx.argmax(logits) if params.temperature <= 0 else self._draw(logits)
        token = token.astype(mx.int32)
        if self._constraint is not None:
            token = mx.where(mx.max(logits) == -mx.inf, NOTHING, token)
        self._remember(token)
        return token

    def hold_to(self, params: DecodeParams, constraint: Constraint | None, history: Sequence[int]) -> None:
        """Go on under other options behind a `history` that may be another one.

        The constraint, where there is one, must have taken all of it. What is drawn from here on depends on the seed and the
        history's length alone: how far ahead had been drawn, which depends on a row's company, does not count.
        """
        self.params = params
        self._constraint = constraint
        if params.seed is not None:
            self._key = mx.random.key((params.seed + (len(history) << 32)) % (1 << 63))
        self._recent = None
        if params.repetition_penalty != 1.0 and history:
            self._recent = mx.array(list(history)[-max(params.repetition_window, 1) :], dtype=mx.int32)

    def banned(self, history: Sequence[int]) -> list[int]:
        """Tokens that may not come behind `history`, since they would repeat an n-gram."""
        params = self.params
        if params.no_repeat_ngram <= 0:
            return []
        ends = repeated_ngram_ends(history, params.no_repeat_ngram, params.ngram_window)
        return [token for token in ends if token not in params.ngram_whitelist]

    def _unrepeated(self, logits: mx.array, history: Sequence[int]) -> mx.array:
        left = ban(logits, self.banned(history))
        # JSON repeats itself by its form: where nothing else may come, a repetition does
        return left if self._constraint is None else mx.where(mx.max(left) == -mx.inf, logits, left)

    def _draw(self, logits: mx.array) -> mx.array:
        params = self.params
        logits = keep_top(logits / params.temperature, params.top_k, params.top_p)
        key = None
        if self._key is not None:
            self._key, key = mx.random.split(self._key)
        return mx.random.categorical(logits, key=key)

    def _penalize(self, logits: mx.array) -> mx.array:
        penalty = self.params.repetition_penalty
        if penalty == 1.0 or self._recent is None:
            return logits
        seen = logits[self._recent]
        seen = mx.where(seen > 0, seen / penalty, seen * penalty)
        return mx.put_along_axis(logits, self._recent, seen, axis=0)

    def _remember(self, token: mx.array) -> None:
        if self.params.repetition_penalty == 1.0:
            return
        token = token.reshape(1)
        recent = token if self._recent is None else mx.concatenate([self._recent, token])
        self._recent = recent[-max(self.params.repetition_window, 1) :]


def keep_top(logits: mx.array, top_k: int, top_p: float) -> mx.array:
    """Set all but the likeliest tokens of `logits` [V] to -inf; top_p outside (0, 1) and top_k outside (0, V) are off."""
    size = logits.shape[-1]
    if 0 < top_k < size:
        threshold = mx.min(mx.topk(logits, top_k))
        logits = mx.where(logits < threshold, -mx.inf, logits)
    if 0 < top_p < 1:
        order = mx.argsort(-logits)
        probs = mx.softmax(logits[order])
        before = mx.cumsum(probs) - probs
        kept = mx.where(before < top_p, logits[order], -mx.inf)
        logits = mx.put_along_axis(logits, order, kept, axis=0)
    return logits


def repeated_ngram_ends(history: Sequence[int], size: int, window: int = 0) -> list[int]:
    """Tokens that would complete an n-gram of `size` that `history` already holds, starting in its last `window` tokens.

    `window` 0 looks everywhere. As DeepSeek-OCR's `NoRepeatNGramLogitsProcessor`, and without a window as transformers'.
    """
    if len(history) < size:
        return []
    prefix = tuple(history[len(history) - size + 1 :])
    starts = range(max(len(history) - window, 0) if window else 0, len(history) - size + 1)
    return sorted({history[i + size - 1] for i in starts if tuple(history[i : i + size - 1]) == prefix})


def ban(logits: mx.array, tokens: Sequence[int]) -> mx.array:
    """`logits` [..., V] with these tokens at -inf."""
    return mx.where(mask(tokens, logits.shape[-1]), -mx.inf, logits) if tokens else logits


def mask(tokens: Sequence[int], size: int) -> mx.array:
    """bool [size], True at these tokens."""
    marked = mx.zeros((size,), dtype=mx.bool_)
    if tokens:
        marked[mx.array(list(tokens))] = True
    return marked


def choose(
    logits: mx.array, samplers: Sequence[Sampler], histories: Sequence[Sequence[int]], banned: mx.array
) -> Choice:
    """One token for each row.

    `logits` [B, V]; `banned` bool [V], tokens that are never chosen; `histories[i]` row i's tokens so far (complete only
    where a sampler needs them).
    """
    logits = mx.where(banned, -mx.inf, logits.astype(mx.float32))
    tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
    if not all(sampler.plain for sampler in samplers):
        own = [
            tokens[i] if sampler.plain else sampler.choose(logits[i], histories[i])
            for i, sampler in enumerate(samplers)
        ]
        tokens = mx.stack(own)
    picked = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return Choice(
        tokens=tokens,
        logprobs=picked - logsumexp(logits),
        max_logits=mx.max(logits, axis=-1),
    )
