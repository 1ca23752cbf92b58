"""When a row ends: the model's end token, a stop string, its limit, a loop, or the caller."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ocr_mlx.domain import DecodeParams, Finish
from ocr_mlx.errors import DecodeError, OcrMlxError, PromptTooLong
from ocr_mlx.inference.constrain import constraint_for
from ocr_mlx.inference.failure import as_error
from ocr_mlx.inference.guard import LoopWatch, guarded
from ocr_mlx.inference.sampling import Sampler
from ocr_mlx.inference.text import TextStream, alike
from ocr_mlx.model.base import LoadedModel, ModelInputs
from ocr_mlx.utils.logs import where

if TYPE_CHECKING:
    from ocr_mlx.inference.draft import Drafter

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowOutcome:
    """What a row came to. `logprobs[i]` belongs to `tokens[i]`; the end token is in neither.

    `recovered` is true where a loop was taken back and the row went on to another end. `decode_steps` counts the passes
    through the model behind its prefill, `drafted` the tokens proposed to it, `accepted` those of them that it took.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish: Finish
    error: OcrMlxError | None = None
    recovered: bool = False
    decode_steps: int = 0
    drafted: int = 0
    accepted: int = 0


class Row:
    """One sequence on its way through a batch: its inputs, its options, and what it has said so far.

    `on_text(delta, tokens)`, `tokens` since the last delta, `on_rewind(length)`, how many characters stay of the text that
    came out, and `on_done(outcome)` are called by the thread that decodes; they must not block. A `drafter` counts only
    where the options are greedy, under an n-gram guard or none. Making one raises InvalidOption for a JSON schema that cannot
    be used.
    """

    def __init__(
        self,
        model: LoadedModel,
        inputs: ModelInputs,
        params: DecodeParams,
        *,
        on_text: Callable[[str, int], None],
        on_done: Callable[[RowOutcome], None],
        cancel: threading.Event,
        on_rewind: Callable[[int], None] = lambda _length: None,
        drafter: Drafter | None = None,
    ) -> None:
        processor = model.processor
        self.inputs = inputs
        self._params = params
        self._new_constraint = partial(constraint_for, model, params)
        self._constraint = self._new_constraint()
        self.sampler = Sampler(params, self._constraint)
        self.drafter = drafter if self.sampler.greedy else None
        self.awaited = self.drafter is not None
        """Whether the next token should be known before anything more is computed, for a draft may go on from it."""
        self.tokens: list[int] = []
        self.cancel = cancel
        self.outcome: RowOutcome | None = None
        self.passes = self.drafted = self.accepted = 0
        self._logprobs: list[float] = []
        self._told = 0
        self._positions = model.graph.max_positions - _prompt_length(inputs)
        self._limit = min(params.max_new_tokens, self._positions)
        self._eos = processor.eos_token_ids
        self._text = TextStream(processor.tokenizer, params.stop)
        self._watch = LoopWatch(processor.repetition_test, self._limit)
        self._guarded = guarded(params, model.family.defaults)
        self._on_text = on_text
        self._on_rewind = on_rewind
        self._on_done = on_done

    @property
    def done(self) -> bool:
        """Whether the row has its outcome."""
        return self.outcome is not None

    @property
    def last_step(self) -> bool:
        """Whether the next token is the last one allowed, so that nothing may be computed beyond it."""
        return len(self.tokens) + 1 >= self._limit

    @property
    def spare(self) -> int:
        """How many more tokens the model's positions hold behind the row's own."""
        return self._positions - len(self.tokens)

    @property
    def retried(self) -> bool:
        """Whether a loop was taken back and is tried again."""
        return self._watch.retried

    @property
    def verifiable(self) -> bool:
        """Whether several tokens can be judged in one pass: greedy, and not under a guard that may end among them."""
        return self.sampler.greedy and self.sampler.params is self._params

    def draft(self, most: int, vocabulary: int) -> list[int]:
        """Up to `most` tokens that may come next, none beyond the row's limit; ids from `vocabulary` on end a draft."""
        most = min(most, self._limit - len(self.tokens) - 1)
        if self.drafter is None or not self.verifiable or self.drafter.silent or most < 1:
            self.awaited = False
            return []
        try:
            proposed = list(self.drafter.propose(self.tokens, most))[:most]
        except Exception as problem:  # a draft is only a help: the row goes on without
            log.error("while drafting: %s", where(problem))
            self.drafter, proposed = None, []
        wrong = next((i for i, token in enumerate(proposed) if not 0 <= token < vocabulary), len(proposed))
        self.awaited = wrong > 0
        return proposed[:wrong]

    def check_fits(self) -> None:
        """Raise PromptTooLong when not one token fits behind the prompt."""
        if self._limit < 1:
            raise PromptTooLong(
                "The page and the prompt fill all of the model's positions.",
                hint="Use a shorter prompt, a smaller picture, or a mode that looks at it in less detail.",
            )

    def accept(self, token: int, logprob: float, max_logit: float) -> None:
        """Take the next token; ends the row when it is the last. One that has ended takes none."""
        if self.done:
            return None
        if self.cancel.is_set():
            return self.end(Finish.CANCELLED)
        if math.isnan(logprob):
            return self.end(Finish.ERROR, _not_finite())
        if self._constraint is not None and not self._constraint.take(token):
            return self.end(Finish.ERROR, _no_way_on())
        if token in self._eos:
            return self.end(Finish.EOS)
        self.tokens.append(token)
        self._logprobs.append(logprob)
        keep = self._watch.update(self.tokens, max_logit)
        if keep is not None:
            return self._loops(keep)
        if self.sampler.params is not self._params and not self._watch.holds(len(self.tokens)):
            self.sampler.hold_to(self._params, self._constraint, self.tokens)
        delta = self._text.add(token)
        if delta:
            self._say(delta)
        if self._text.stopped:
            self.end(Finish.STOP)
        elif self._constraint is not None and self._constraint.complete:
            self.end(Finish.EOS)
        elif len(self.tokens) >= self._limit:
            self._full()

    def end(self, finish: Finish, error: OcrMlxError | None = None) -> None:
        """End the row here; what it has said stays."""
        if self.done:
            return
        try:
            self._say_the_rest()
        except Exception as problem:  # a tokenizer that cannot spell these tokens; what was said before stays
            finish, error = Finish.ERROR, as_error(problem, "spelling out a page's tokens")
        self.outcome = RowOutcome(
            tokens=tuple(self.tokens),
            logprobs=tuple(self._logprobs),
            text=self._text.text,
            finish=finish,
            error=error,
            recovered=self.retried and finish is not Finish.LOOP,
            decode_steps=self.passes,
            drafted=self.drafted,
            accepted=self.accepted,
        )
        self._on_done(self.outcome)

    def _say_the_rest(self) -> None:
        """Let out what was held back. What came out token by token may differ from the whole where tokens spell nonsense."""
        out = self._text.text
        self._text.finish(self.tokens)
        whole = self._text.text
        stays = alike(out, whole)
        if stays < len(out):
            self._on_rewind(stays)
        if stays < len(whole):
            self._say(whole[stays:])

    def _say(self, delta: str) -> None:
        self._on_text(delta, len(self.tokens) - self._told)
        self._told = len(self.tokens)

    def _full(self) -> None:
        """The row has all the tokens it may have; one that is still kept from its loop did not get out of it."""
        if self._watch.holds(len(self.tokens) - 1):
            self._loops(len(self.tokens))
        else:
            self.end(Finish.LENGTH)

    def _loops(self, keep: int) -> None:
        """Of the row's tokens only the first `keep` are good: try again from there, once, or end it."""
        if self.retried or self._guarded is None or max(keep, 1) >= len(self.tokens):
            self._take_back(self._watch.good(keep))
            return self.end(Finish.LOOP)
        self._take_back(self._watch.go_back(keep, len(self.tokens)))
        self._constraint = self._new_constraint()
        if self._constraint is not None:
            for token in self.tokens:
                self._constraint.take(token)
        self.sampler.hold_to(self._guarded, self._constraint, self.tokens)

    def _take_back(self, keep: int) -> None:
        """Make it as if only the first `keep` tokens had come, and tell whoever has seen more."""
        del self.tokens[keep:]
        del self._logprobs[keep:]
        self._told = min(self._told, keep)
        out = len(self._text.text)
        self._text.rewind(self.tokens)
        if len(self._text.text) < out:
            self._on_rewind(len(self._text.text))
        elif len(self._text.text) > out:  # nothing was taken back, and the newest token had not been spelled out
            self._say(self._text.text[out:])


def _not_finite() -> DecodeError:
    return DecodeError(
        "The model's numbers are not finite, so its words mean nothing.",
        hint="The weights may be damaged, or float16 too narrow for them: download again, or set OCR_MLX_DTYPE=float32.",
    )


def _no_way_on() -> DecodeError:
    return DecodeError(
        "None of the model's tokens could continue this answer within its JSON schema.",
        hint="Use a simpler schema, or ask for free text.",
    )


def _prompt_length(inputs: ModelInputs) -> int:
    return max(inputs.prompt_tokens, len(inputs.token_ids))
