"""When a row ends: the model's end token, a stop string, its limit, a loop, or the caller."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ocr_mlx.domain import DecodeParams, Finish
from ocr_mlx.errors import DecodeError, OcrMlxError, PromptTooLong
from ocr_mlx.inference.constrain import constraint_for
from ocr_mlx.inference.failure import as_error
from ocr_mlx.inference.guard import CHECK_EVERY, loop_start
from ocr_mlx.inference.sampling import Sampler
from ocr_mlx.inference.text import TextStream
from ocr_mlx.model.base import LoadedModel, ModelInputs


@dataclass(frozen=True, kw_only=True, slots=True)
class RowOutcome:
    """What a row came to. `logprobs[i]` belongs to `tokens[i]`; the end token is in neither."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish: Finish
    error: OcrMlxError | None = None


class Row:
    """One sequence on its way through a batch: its inputs, its options, and what it has said so far.

    `on_text(delta, tokens)`, `tokens` since the last delta, and `on_done(outcome)` are called by the thread that decodes;
    they must not block. Making one raises InvalidOption for a JSON schema that cannot be used.
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
    ) -> None:
        processor = model.processor
        self.inputs = inputs
        self._constraint = constraint_for(model, params)
        self.sampler = Sampler(params, self._constraint)
        self.tokens: list[int] = []
        self.cancel = cancel
        self.outcome: RowOutcome | None = None
        self._logprobs: list[float] = []
        self._told = 0
        self._limit = min(params.max_new_tokens, model.graph.max_positions - _prompt_length(inputs))
        self._eos = processor.eos_token_ids
        self._text = TextStream(processor.tokenizer, params.stop)
        self._test = processor.repetition_test()
        self._on_text = on_text
        self._on_done = on_done

    @property
    def done(self) -> bool:
        """Whether the row has its outcome."""
        return self.outcome is not None

    @property
    def last_step(self) -> bool:
        """Whether the next token is the last one allowed, so that nothing may be computed beyond it."""
        return len(self.tokens) + 1 >= self._limit

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
        keep = self._loop(token, max_logit)
        if keep is not None:
            return self._cut(keep)
        delta = self._text.add(token)
        if delta:
            self._say(delta)
        if self._text.stopped:
            self.end(Finish.STOP)
        elif self._constraint is not None and self._constraint.complete:
            self.end(Finish.EOS)
        elif len(self.tokens) >= self._limit:
            self.end(Finish.LENGTH)

    def end(self, finish: Finish, error: OcrMlxError | None = None) -> None:
        """End the row here; what it has said stays."""
        if self.done:
            return
        try:
            rest = self._text.finish(self.tokens)
        except Exception as problem:  # a tokenizer that cannot spell these tokens; what was said before stays
            rest, finish, error = "", Finish.ERROR, as_error(problem, "spelling out a page's tokens")
        if rest:
            self._say(rest)
        self.outcome = RowOutcome(
            tokens=tuple(self.tokens),
            logprobs=tuple(self._logprobs),
            text=self._text.text,
            finish=finish,
            error=error,
        )
        self._on_done(self.outcome)

    def _say(self, delta: str) -> None:
        self._on_text(delta, len(self.tokens) - self._told)
        self._told = len(self.tokens)

    def _loop(self, token: int, max_logit: float) -> int | None:
        keep = self._test.update(token, max_logit) if self._test is not None else None
        if keep is None and len(self.tokens) % CHECK_EVERY == 0:
            keep = loop_start(self.tokens)
        return keep

    def _cut(self, keep: int) -> None:
        del self.tokens[keep:]
        del self._logprobs[keep:]
        self.end(Finish.LOOP)


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
