"""One page from pixels to its result: prepare its rows, follow them through the batch, fold them into one honest status."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ocr_mlx.domain import DecodeParams, Finish, Page, PageError, PageResult, PageStatus, Prompt, TextDelta, TextRewind
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.inference.blank import is_blank
from ocr_mlx.inference.draft import Drafter, drafters
from ocr_mlx.inference.stopping import Row, RowOutcome
from ocr_mlx.model.base import LoadedModel, Mode, PageText, PreparedPage

_STATUS = {
    Finish.EOS: PageStatus.OK,
    Finish.STOP: PageStatus.OK,
    Finish.LENGTH: PageStatus.TRUNCATED,
    Finish.LOOP: PageStatus.LOOP_STOPPED,
    Finish.CANCELLED: PageStatus.CANCELLED,
    Finish.ERROR: PageStatus.FAILED,
}
_WORST_LAST = (Finish.EOS, Finish.STOP, Finish.LENGTH, Finish.LOOP, Finish.CANCELLED, Finish.ERROR)


def prepare(model: LoadedModel, page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
    """The page's rows; none when it is blank. Runs in any thread."""
    if all(is_blank(image) for image in (page.image, *page.following)):
        return PreparedPage(rows=(), glue=())
    return model.processor.prepare(page, prompt, mode)


def failed(index: int, problem: OcrMlxError, seconds: float = 0.0) -> PageResult:
    """The result of a page that could not be read."""
    return PageResult(
        index=index,
        status=PageStatus.FAILED,
        finish=Finish.ERROR,
        seconds=seconds,
        error=PageError(code=problem.code, message=str(problem)),
    )


def cancelled(index: int) -> PageResult:
    """The result of a page that was never begun because the caller gave up."""
    return PageResult(index=index, status=PageStatus.CANCELLED, finish=Finish.CANCELLED)


def status_of(finish: Finish, text: str, *, recovered: bool = False) -> PageStatus:
    """How a page that ended so counts; one whose text came to its end and is empty is blank.

    `recovered` says that a loop was taken back on the way.
    """
    status = _STATUS[finish]
    if recovered and status is PageStatus.OK:
        return PageStatus.LOOP_RECOVERED
    return PageStatus.BLANK if status is PageStatus.OK and not text.strip() else status


class PageRun:
    """Follows one page's rows. Deltas come out in reading order: a row's text waits until the rows before it are done.

    `on_text` and `on_done` are called by the decoding thread and must not block.
    """

    def __init__(
        self,
        model: LoadedModel,
        page: Page,
        prepared: PreparedPage,
        mode: Mode,
        *,
        on_text: Callable[[TextDelta | TextRewind], None],
        on_done: Callable[[], None],
    ) -> None:
        self._model = model
        self._page = page
        self._prepared = prepared
        self._mode = mode
        self._on_text = on_text
        self._on_done = on_done
        self._constrained = False
        self._outcomes: list[RowOutcome | None] = [None] * len(prepared.rows)
        self._held = [""] * len(prepared.rows)
        self._rows: list[Row] = []
        self._end = len(prepared.rows)
        """Rows before this one count: a stop string ends the page, and with it the rows behind."""
        self._stopping = False
        self._head = 0
        self._glue_out = 0
        self._out = self._row_out = 0
        """Characters that came out: of the page, and of the row whose turn it is."""
        self._tokens = 0
        self._started = time.monotonic()

    def rows(
        self, params: DecodeParams, cancel: threading.Event, *, drafts: bool = False, earlier: str = ""
    ) -> list[Row]:
        """The rows to admit to the batch, with `drafts` from the page's own words or an `earlier` raw text of the page.

        Raises InvalidOption for a JSON schema that cannot be used.
        """
        self._constrained = params.json_schema is not None
        known: list[Drafter | None] = [None] * len(self._prepared.rows)
        if drafts and not self._constrained and params.temperature <= 0:
            known = drafters(self._model, self._page, self._prepared, earlier)
        self._rows = [self._row(i, params, cancel, drafter) for i, drafter in enumerate(known)]
        return list(self._rows)

    @property
    def unfinished(self) -> int:
        """Rows that have not ended."""
        return self._outcomes.count(None)

    def result(self) -> PageResult:
        """The page's outcome, once every row has ended. Runs the family's post-processing: not for the worker."""
        outcomes = [outcome for outcome in self._outcomes[: self._end] if outcome is not None]
        kept = replace(self._prepared, rows=self._prepared.rows[: self._end], glue=self._prepared.glue[: self._end])
        raw = kept.join([outcome.text for outcome in outcomes])
        error = next((outcome.error for outcome in outcomes if outcome.error is not None), None)
        finish = max((outcome.finish for outcome in outcomes), key=_WORST_LAST.index, default=Finish.EOS)
        final = self._final(raw)
        return PageResult(
            index=self._page.index,
            status=status_of(finish, final.text, recovered=any(outcome.recovered for outcome in outcomes)),
            text=final.text,
            raw_text=raw,
            token_ids=tuple(token for outcome in outcomes for token in outcome.tokens),
            blocks=final.blocks,
            confidence=_confidence(outcomes),
            prompt_tokens=sum(row.prompt_tokens for row in self._prepared.rows),
            generated_tokens=sum(len(outcome.tokens) for outcome in outcomes),
            finish=finish,
            effective_size=self._prepared.rows[0].effective_size if self._prepared.rows else None,
            seconds=time.monotonic() - self._started,
            decode_steps=sum(outcome.decode_steps for outcome in outcomes),
            drafted=sum(outcome.drafted for outcome in outcomes),
            accepted=sum(outcome.accepted for outcome in outcomes),
            error=PageError(code=error.code, message=str(error)) if error is not None else None,
        )

    def so_far(self, raw: str, tokens: int) -> PageResult:
        """The outcome of a page given up while others still work at it, from what was told of it: `raw` and `tokens`."""
        return PageResult(
            index=self._page.index,
            status=PageStatus.CANCELLED,
            text=self._final(raw).text,
            raw_text=raw,
            prompt_tokens=sum(row.prompt_tokens for row in self._prepared.rows),
            generated_tokens=tokens,
            finish=Finish.CANCELLED,
            effective_size=self._prepared.rows[0].effective_size if self._prepared.rows else None,
            seconds=time.monotonic() - self._started,
        )

    def _final(self, raw: str) -> PageText:
        """The family's clean text; JSON stays as it is, for a family would take some of it for markup."""
        if self._constrained:
            return PageText(text=raw.strip())
        return self._model.processor.postprocess(raw, self._page, self._prepared, self._mode)

    def _row(self, i: int, params: DecodeParams, cancel: threading.Event, drafter: Drafter | None) -> Row:
        return Row(
            self._model,
            self._prepared.rows[i],
            params,
            on_text=lambda delta, tokens: self._text(i, delta, tokens),
            on_rewind=lambda length: self._rewound(i, length),
            on_done=lambda outcome: self._done(i, outcome),
            cancel=cancel,
            drafter=drafter,
        )

    def _text(self, i: int, delta: str, tokens: int) -> None:
        self._tokens += tokens
        self._held[i] += delta
        if i == self._head:
            self._flush()

    def _rewound(self, i: int, length: int) -> None:
        if i != self._head:
            self._held[i] = self._held[i][:length]
        elif length < self._row_out:
            self._out -= self._row_out - length
            self._row_out = length
            self._on_text(TextRewind(page=self._page.index, length=self._out))

    def _done(self, i: int, outcome: RowOutcome) -> None:
        self._outcomes[i] = outcome
        if self._stopping:
            return
        if outcome.finish in (Finish.STOP, Finish.CANCELLED):
            # what stands behind a gap would be read as if there were none
            self._stop_behind(i)
        if i != self._head:
            self._held[i] = outcome.text  # a loop may have been cut off what nobody has seen yet
        if self._head < self._end:
            self._go_on()

    def _stop_behind(self, i: int) -> None:
        self._end = min(self._end, i + 1)
        self._stopping = True
        for row in self._rows[i + 1 :]:
            row.end(Finish.STOP)
        self._stopping = False

    def _go_on(self) -> None:
        while self._head < self._end and self._outcomes[self._head] is not None:
            self._flush()
            self._head += 1
            self._row_out = 0
        self._flush()
        if self._head == self._end:
            self._rows.clear()  # they know this run: together they would keep the page's pixels until a garbage collection
            self._on_done()

    def _flush(self) -> None:
        text, over = "", self._head == self._end
        if not over:
            text, self._held[self._head] = self._held[self._head], ""
        self._row_out += len(text)
        if text or over:
            text = self._glued(text)
        self._out += len(text)
        if text:
            self._on_text(TextDelta(page=self._page.index, text=text, tokens=self._tokens))
            self._tokens = 0

    def _glued(self, text: str) -> str:
        """The text behind the glue of every row since the last one that spoke."""
        upto = min(self._head + 1, self._end)
        glue = "".join(self._prepared.glue[self._glue_out : upto])
        self._glue_out = upto
        return glue + text


def _confidence(outcomes: Sequence[RowOutcome]) -> float | None:
    """Mean probability of the tokens, 0..1."""
    logprobs = [logprob for outcome in outcomes for logprob in outcome.logprobs]
    return sum(math.exp(min(p, 0.0)) for p in logprobs) / len(logprobs) if logprobs else None
