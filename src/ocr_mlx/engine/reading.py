"""One document on its way through a model on this machine: what is being prepared, what decodes, what is done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Final

from ocr_mlx.domain import (
    DocumentStarted,
    Event,
    OcrRequest,
    OnEvent,
    Page,
    PageDone,
    PageResult,
    PageStarted,
    PageStatus,
    TextDelta,
    TextRewind,
    resolve,
)
from ocr_mlx.engine.document import OpenDocument
from ocr_mlx.engine.page_cache import KEPT, PageCache, repeats
from ocr_mlx.engine.page_key import PageKey, about, keys
from ocr_mlx.engine.recall import groups, retell, together
from ocr_mlx.engine.stop import Stop
from ocr_mlx.engine.worker import Worker
from ocr_mlx.errors import InvalidOption
from ocr_mlx.inference import pipeline
from ocr_mlx.inference.constrain import check_model
from ocr_mlx.inference.failure import as_error
from ocr_mlx.model.base import LoadedModel, PreparedPage, find_mode
from ocr_mlx.observer import Observer

PREPARING: Final = 2
"""Pages of one document that are prepared at once."""
PATIENCE: Final = 0.2
"""Seconds that a run which is to end waits for its rows: long enough for one step, and no vision pass."""
_LOOK: Final = 0.05
"""Seconds between two looks at the flag while nothing happens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """What every reading uses."""

    worker: Worker
    threads: ThreadPoolExecutor
    known: PageCache
    observer: Observer
    drafts: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    page: Page
    rows: PreparedPage
    key: PageKey | None
    earlier: str
    """What a model once said of these pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recalled:
    """A page that need not be read."""

    result: PageResult


@dataclass(frozen=True, kw_only=True, slots=True)
class _Finished:
    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Refused:
    """A page that cannot be prepared because of what was asked for."""

    index: int
    problem: InvalidOption


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parted:
    """Pages that cannot be had, and those that were to be read with them and can."""

    first: int
    failed: tuple[PageResult, ...]
    rest: tuple[int, ...]


@dataclass(kw_only=True, slots=True)
class _Running:
    """A page in the batch, and what it has said so far in the events."""

    run: pipeline.PageRun
    key: PageKey | None
    said: str = ""
    tokens: int = 0


_Message = Event | _Parted | _Prepared | _Recalled | _Refused | _Finished | PageResult


class Reading:
    """One document and one model. Belongs to the caller's thread."""

    def __init__(
        self,
        means: Means,
        document: OpenDocument,
        model: LoadedModel,
        request: OcrRequest,
        emit: OnEvent,
        stop: Stop,
        recalled: Mapping[int, PageResult],
    ) -> None:
        """`recalled` are results of an earlier run that are known already.

        Raises InvalidOption for a mode, a prompt or a JSON schema that the model does not take.
        """
        self._means = means
        self._document = document
        self._model = model
        self._request = request
        self._mode = find_mode(model.family, request.prompt.mode)
        self._params = resolve(model.family.defaults, self._mode.overrides, request.overrides)
        check_model(model, self._params)
        self._emit = emit
        self._stop = stop
        self._recalled = recalled
        self._stopped_at: float | None = None
        self._keeps = means.known.is_on and repeats(self._params)
        self._key_of = keys(about(model), request.prompt, self._mode, self._params, precision=means.known.precision)
        self._messages: SimpleQueue[_Message] = SimpleQueue()
        prompts = groups(document.indices, self._mode.pages_together)
        self._following = {first: tuple(rest) for first, *rest in prompts}
        self._waiting = list(reversed(prompts))
        self._preparing: dict[int, _Prepared | None] = {}
        """Pages on their way into the batch, in their order: one that is ready early waits for those before it."""
        self._running: dict[int, _Running] = {}
        self.hands: set[Future[None]] = set()
        """What other threads still have to do for this document; it and the model are needed until all are done."""
        self._done: dict[int, PageResult] = {}

    def run(self) -> tuple[PageResult, ...]:
        """The results, in the order asked for. Once it is to end, it does so in `PATIENCE` seconds whatever others do."""
        self._emit(DocumentStarted(model=self._model.ref.id, pages=tuple(self._following)))
        try:
            self._fill()
            while self._preparing or self._running:
                self._step()
                self._fill()
        except BaseException:
            self._stop.set()
            wait(self.hands, timeout=PATIENCE)
            raise
        return tuple(self._done[index] for index in self._document.indices if index in self._done)

    def _step(self) -> None:
        try:
            self._handle(self._messages.get(timeout=_LOOK))
        except Empty:
            if self._is_over():
                self._leave()

    def _is_over(self) -> bool:
        """Whether it is to end, and those who still work for it had their time."""
        if not self._stop.is_set():
            return False
        now = time.monotonic()
        if self._stopped_at is None:
            self._stopped_at = now
        return now - self._stopped_at >= PATIENCE

    def _leave(self) -> None:
        """Answer now with what there is; what others still do for this document is dropped when they come to it."""
        for index, page in list(self._running.items()):
            self._end(index, self._cut_short(page, index))
        for index in sorted(self._preparing):
            self._finish(pipeline.cancelled(index))
        self._preparing.clear()

    def _fill(self) -> None:
        """Keep enough pages in flight to fill the batch, and no more."""
        while self._waiting and self._stop.is_set():
            self._finish(pipeline.cancelled(self._waiting.pop()[0]))
        self.hands -= {hand for hand in self.hands if hand.done()}
        room = self._means.worker.places(self._model) + PREPARING
        while self._waiting and len(self._preparing) < PREPARING and self._rows() < room:
            group = self._waiting.pop()
            self.hands.add(self._means.threads.submit(self._prepare, group))
            self._preparing[group[0]] = None

    def _rows(self) -> int:
        return sum(page.run.unfinished for page in self._running.values())

    def _prepare(self, group: Sequence[int]) -> None:
        """Runs on a helper thread."""
        index = group[0]
        try:
            if self._stop.is_set():
                self._messages.put(pipeline.cancelled(index))
                return
            if index in self._recalled:
                self._messages.put(_Recalled(result=self._recalled[index]))
                return
            page = self._together(group)
            if page is not None:
                self._messages.put(self._made_ready(page))
        except InvalidOption as problem:
            self._messages.put(_Refused(index=index, problem=problem))
        except Exception as problem:
            self._messages.put(pipeline.failed(index, as_error(problem, "preparing a page")))

    def _together(self, group: Sequence[int]) -> Page | None:
        """The pages of one prompt as one; None where not all can be had, which the message says."""
        pages, failed = [], []
        for number in group:
            try:
                pages.append(self._page(number))
            except Exception as problem:
                failed.append(pipeline.failed(number, as_error(problem, "preparing a page")))
        if failed:
            rest = tuple(page.index for page in pages)
            self._messages.put(_Parted(first=group[0], failed=tuple(failed), rest=rest))
            return None
        return together(pages)

    def _page(self, index: int) -> Page:
        dpi = self._request.dpi or self._model.processor.dpi
        return self._document.page(index, dpi=dpi, padding=self._request.padding)

    def _made_ready(self, page: Page) -> _Recalled | _Prepared:
        known = self._means.known
        key = self._key_of(page) if self._keeps else None
        if key is not None and not self._request.fresh:
            result = known.get(key)
            self._means.observer.page_cache(result is not None)
            if result is not None:
                return _Recalled(result=replace(result, index=page.index, following=self._following[page.index]))
        rows = pipeline.prepare(self._model, page, self._request.prompt, self._mode)
        return _Prepared(page=page, rows=rows, key=key, earlier=known.earlier(key) if key is not None else "")

    def _handle(self, message: _Message) -> None:
        match message:
            case _Prepared():
                self._preparing[message.page.index] = message
            case _Recalled():
                self._preparing.pop(message.result.index, None)
                self._done[message.result.index] = message.result
                retell(message.result, self._emit)
            case _Parted():
                self._preparing.pop(message.first, None)
                self._part(message)
            case _Refused():
                self._preparing.pop(message.index, None)
                self._refuse(message)
            case _Finished():
                self._end(message.index, self._conclude(message.index))
            case PageResult():
                self._preparing.pop(message.index, None)
                self._finish(message)
            case _:
                self._tell(message)
        self._start_ready()

    def _start_ready(self) -> None:
        """In page order, so that the first page's text comes first however few rows decode together."""
        for index, ready in list(self._preparing.items()):
            if ready is None:
                return
            del self._preparing[index]
            self._start(ready)

    def _start(self, prepared: _Prepared) -> None:
        index = prepared.page.index
        self._emit(PageStarted(page=index))
        ended: Future[None] = Future()

        def on_done() -> None:
            self._messages.put(_Finished(index=index))
            ended.set_result(None)

        run = pipeline.PageRun(
            self._model,
            prepared.page,
            prepared.rows,
            self._mode,
            on_text=self._messages.put,
            on_done=on_done,
        )
        self._running[index] = _Running(run=run, key=prepared.key)
        rows = run.rows(self._params, self._stop, drafts=self._means.drafts, earlier=prepared.earlier)
        if rows:
            self._means.worker.admit(self._model, rows)
            self.hands.add(ended)
        else:
            on_done()

    def _tell(self, event: Event) -> None:
        match event:
            case TextDelta() if event.page in self._running:
                page = self._running[event.page]
                page.said += event.text
                page.tokens += event.tokens
            case TextRewind() if event.page in self._running:
                page = self._running[event.page]
                page.said = page.said[: event.length]
        self._emit(event)

    def _part(self, parted: _Parted) -> None:
        """A bad page fails alone; those that were to be read with it are read without it."""
        for result in parted.failed:
            self._following[result.index] = ()
            self._finish(result)
        if parted.rest:
            first, *others = parted.rest
            self._following[first] = tuple(others)
            self._waiting.append(parted.rest)

    def _refuse(self, refused: _Refused) -> None:
        """What the first page cannot be asked is the request's fault; what only others cannot is theirs."""
        if refused.index == self._document.indices[0]:
            raise refused.problem
        self._finish(pipeline.failed(refused.index, refused.problem))

    def _conclude(self, index: int) -> PageResult:
        try:
            return self._running[index].run.result()
        except Exception as problem:
            return pipeline.failed(index, as_error(problem, "finishing a page"))

    @staticmethod
    def _cut_short(page: _Running, index: int) -> PageResult:
        try:
            return page.run.so_far(page.said, page.tokens)
        except Exception as problem:
            return pipeline.failed(index, as_error(problem, "finishing a page"))

    def _end(self, index: int, result: PageResult) -> None:
        """A page leaves the batch with its result, which is kept where it may be of use again."""
        key = self._running.pop(index).key
        if key is not None:
            if result.status in KEPT:
                self._means.known.put(key, result)
            if result.status is not PageStatus.FAILED:
                self._means.known.remember(key, result.raw_text)
        self._finish(result)

    def _finish(self, result: PageResult) -> None:
        if following := self._following[result.index]:
            result = replace(result, following=following)
        result = self._stop.explain(result)
        self._done[result.index] = result
        self._emit(PageDone(result=result))
