"""The single use case: a document goes in, events and one result per page come out. CLI, routes and jobs all call `run`.

`run` belongs to the caller's thread and is a small message loop. Bytes are fetched and the document is opened before a model
is asked for, so bad input costs nothing; pages are rendered and prepared by two helper threads, a few ahead of the batch;
the worker decodes. Memory stays bounded by the pages in flight, however long the document is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue

from ocr_mlx.domain import (
    DocumentDone,
    DocumentStarted,
    Event,
    OcrRequest,
    OcrResult,
    OnEvent,
    Page,
    PageDone,
    PageResult,
    PageStarted,
    resolve,
)
from ocr_mlx.engine.board import ModelBoard
from ocr_mlx.engine.cache import ModelCache
from ocr_mlx.engine.document import Open, OpenDocument, pictures
from ocr_mlx.engine.remote import RemoteModel, RemoteOptions, is_reference
from ocr_mlx.engine.remote_reading import RemoteEngines, RemoteReading
from ocr_mlx.engine.worker import Worker
from ocr_mlx.errors import Cancelled, InvalidOption, QueueFull, ShuttingDown
from ocr_mlx.inference import pipeline
from ocr_mlx.inference.constrain import check_model
from ocr_mlx.inference.failure import as_error
from ocr_mlx.inference.options import check
from ocr_mlx.model.base import LoadedModel, PreparedPage, find_mode


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    page: Page
    rows: PreparedPage


@dataclass(frozen=True, kw_only=True, slots=True)
class _Finished:
    index: int
    run: pipeline.PageRun


@dataclass(frozen=True, kw_only=True, slots=True)
class _Refused:
    """A page that cannot be prepared because of what was asked for."""

    index: int
    problem: InvalidOption


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parted:
    """Pages that cannot be had, and those that were to be read with them and can."""

    failed: tuple[PageResult, ...]
    rest: tuple[int, ...]


_Message = Event | _Parted | _Prepared | _Refused | _Finished | PageResult
_PREPARING = 2
_CLOSING_SECONDS = 30.0
"""A cancelled document ends within one step, or when the model it waits for is loaded."""


class OcrService:
    """Reads documents. Thread-safe; every call of `run` blocks its own thread only."""

    def __init__(
        self,
        cache: ModelCache,
        worker: Worker,
        open_document: Open,
        *,
        default_model: str,
        queue_limit: int = 64,
        on_close: Callable[[], None] = lambda: None,
        board: ModelBoard | None = None,
        remote: RemoteEngines | None = None,
    ) -> None:
        """`default_model` is read with when a request names none; `on_close` lets go of what `open_document` uses."""
        self.cache = cache
        self._remote = remote or RemoteEngines(RemoteOptions())
        self.board = board or ModelBoard()
        self._worker = worker
        self._open = open_document
        self._default_model = default_model
        self._queue_limit = queue_limit
        self._on_close = on_close
        self._threads = ThreadPoolExecutor(_PREPARING, thread_name_prefix="ocr-pages")
        self._idle = threading.Condition()
        self._active: set[threading.Event] = set()
        self._closing = False

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        """Read one document.

        `on_event` is called on this thread, in order: model progress, document started, then per page started, text and
        done (pages may interleave; one that cannot be prepared is done without having started), last document done.
        `cancel` is only looked at, so that several runs may share it: once it is set, pages that are not done end as
        `cancelled`. Raises Cancelled when that is before the first page, InvalidOption for a mode, a prompt or a JSON schema
        that the model does not take, and OcrMlxError when the document as a whole cannot be read; a single bad page is a
        `failed` page.
        """
        own = _Cancel(cancel)
        with self._admitted(own):
            return self._run(request, on_event or (lambda _event: None), own)

    def inspect(self, request: OcrRequest) -> tuple[int, ...]:
        """The indices of the selected pages. Opens the document, reads none. Raises SourceError and PageError."""
        document = self._open(request)
        try:
            return document.indices
        finally:
            document.close()

    def pictures(self, request: OcrRequest, *, dpi: float, most: int) -> Iterator[Page | None]:
        """The first `most` selected pages as pixels; see `engine.document.pictures`."""
        return pictures(self._open, request, dpi=dpi, most=most)

    def close(self, *, drain: float = 0.0) -> None:
        """Take no new work, give running work `drain` seconds, cancel the rest, unload and end all threads."""
        with self._idle:
            self._closing = True
            self._idle.wait_for(lambda: not self._active, timeout=drain)
            for cancel in self._active:
                cancel.set()
            self._idle.wait_for(lambda: not self._active, timeout=_CLOSING_SECONDS)
        self._threads.shutdown(wait=False)
        self._on_close()
        self._remote.close()
        self.cache.close()
        self._worker.close()

    @contextmanager
    def _admitted(self, cancel: threading.Event) -> Iterator[None]:
        with self._idle:
            if self._closing:
                raise ShuttingDown("The server is shutting down.", hint="Start it again and repeat the request.")
            if len(self._active) >= self._queue_limit:
                raise QueueFull(f"{len(self._active)} documents are being read already.", hint="Try again in a moment.")
            self._active.add(cancel)
        try:
            yield
        except BaseException:
            cancel.set()
            raise
        finally:
            with self._idle:
                self._active.discard(cancel)
                self._idle.notify_all()

    def _run(self, request: OcrRequest, on_event: OnEvent, cancel: threading.Event) -> OcrResult:
        started = time.monotonic()
        name = request.model or self._default_model
        check(request.overrides, name)
        remote = self._remote.find(name) if is_reference(name) else None
        document = self._open(request)
        try:
            _check_wanted(cancel)
            if remote is not None:
                used, pages = self._read_elsewhere(remote, document, request, on_event, cancel)
            else:
                used, pages = self._read_here(name, document, request, on_event, cancel)
        finally:
            document.close()
        result = OcrResult(model=used, pages=pages, seconds=time.monotonic() - started)
        on_event(DocumentDone(result=result))
        return result

    def _read_here(
        self, name: str, document: OpenDocument, request: OcrRequest, on_event: OnEvent, cancel: threading.Event
    ) -> tuple[str, tuple[PageResult, ...]]:
        with self.cache.lease(name, keep_alive=request.keep_alive, on_event=on_event, cancel=cancel) as model:
            _check_wanted(cancel)
            used = model.ref.id
            pages = _Reading(self._worker, self._threads, document, model, request, on_event, cancel).run()
            del model  # the lease's end may unload it, which frees nothing as long as it has a name here
        return used, pages

    def _read_elsewhere(
        self,
        remote: RemoteModel,
        document: OpenDocument,
        request: OcrRequest,
        on_event: OnEvent,
        cancel: threading.Event,
    ) -> tuple[str, tuple[PageResult, ...]]:
        reading = RemoteReading(self._remote, remote, self._threads, document, request, on_event, cancel)
        return remote.model, reading.run()


class _Cancel(threading.Event):
    """Set when the caller's flag is, or when the engine gives a run up. The caller's own flag is only looked at."""

    def __init__(self, caller: threading.Event | None) -> None:
        super().__init__()
        self._caller = caller

    def is_set(self) -> bool:
        return super().is_set() or (self._caller is not None and self._caller.is_set())


class _Reading:
    """One document on its way: what is being prepared, what decodes, what is done."""

    def __init__(
        self,
        worker: Worker,
        threads: ThreadPoolExecutor,
        document: OpenDocument,
        model: LoadedModel,
        request: OcrRequest,
        on_event: OnEvent,
        cancel: threading.Event,
    ) -> None:
        self._worker = worker
        self._threads = threads
        self._document = document
        self._model = model
        self._request = request
        self._mode = find_mode(model.family, request.prompt.mode)
        self._params = resolve(model.family.defaults, self._mode.overrides, request.overrides)
        check_model(model, self._params)
        self._emit = on_event
        self._cancel = cancel
        self._messages: SimpleQueue[_Message] = SimpleQueue()
        groups = _groups(document.indices, self._mode.pages_together)
        self._following = {first: tuple(rest) for first, *rest in groups}
        self._waiting = list(reversed(groups))
        self._preparing = 0
        self._running: dict[int, pipeline.PageRun] = {}
        self._hands: set[Future[None]] = set()
        """What other threads still have to do for this document."""
        self._done: dict[int, PageResult] = {}

    def run(self) -> tuple[PageResult, ...]:
        self._emit(DocumentStarted(model=self._model.ref.id, pages=tuple(self._following)))
        try:
            self._fill()
            while self._preparing or self._running:
                self._handle(self._messages.get())
                self._fill()
        except BaseException:
            self._cancel.set()
            wait(self._hands)
            raise
        return tuple(self._done[index] for index in self._document.indices if index in self._done)

    def _fill(self) -> None:
        """Keep enough pages in flight to fill the batch, and no more."""
        while self._waiting and self._cancel.is_set():
            self._finish(pipeline.cancelled(self._waiting.pop()[0]))
        self._hands = {hand for hand in self._hands if not hand.done()}
        room = self._worker.places(self._model) + _PREPARING
        while self._waiting and self._preparing < _PREPARING and self._rows() < room:
            self._hands.add(self._threads.submit(self._prepare, self._waiting.pop()))
            self._preparing += 1

    def _rows(self) -> int:
        return sum(run.unfinished for run in self._running.values())

    def _prepare(self, group: Sequence[int]) -> None:
        """Runs on a helper thread."""
        index = group[0]
        try:
            if self._cancel.is_set():
                self._messages.put(pipeline.cancelled(index))
                return
            page = self._together(group)
            if page is None:
                return
            rows = pipeline.prepare(self._model, page, self._request.prompt, self._mode)
            self._messages.put(_Prepared(page=page, rows=rows))
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
            self._messages.put(_Parted(failed=tuple(failed), rest=tuple(page.index for page in pages)))
            return None
        first, *others = pages
        return replace(first, following=tuple(other.image for other in others)) if others else first

    def _page(self, index: int) -> Page:
        dpi = self._request.dpi or self._model.processor.dpi
        return self._document.page(index, dpi=dpi, padding=self._request.padding)

    def _handle(self, message: _Message) -> None:
        match message:
            case _Prepared():
                self._preparing -= 1
                self._start(message)
            case _Parted():
                self._preparing -= 1
                self._part(message)
            case _Refused():
                self._preparing -= 1
                self._refuse(message)
            case _Finished():
                self._finish(self._conclude(message))
            case PageResult():
                self._preparing -= 1
                self._finish(message)
            case _:
                self._emit(message)

    def _start(self, prepared: _Prepared) -> None:
        index = prepared.page.index
        self._emit(PageStarted(page=index))
        ended: Future[None] = Future()

        def on_done() -> None:
            self._messages.put(_Finished(index=index, run=run))
            ended.set_result(None)

        run = pipeline.PageRun(
            self._model,
            prepared.page,
            prepared.rows,
            self._mode,
            on_text=self._messages.put,
            on_done=on_done,
        )
        self._running[index] = run
        rows = run.rows(self._params, self._cancel)
        if rows:
            self._worker.admit(self._model, rows)
            self._hands.add(ended)
        else:
            on_done()

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

    def _conclude(self, finished: _Finished) -> PageResult:
        del self._running[finished.index]
        try:
            return finished.run.result()
        except Exception as problem:
            return pipeline.failed(finished.index, as_error(problem, "finishing a page"))

    def _finish(self, result: PageResult) -> None:
        if following := self._following[result.index]:
            result = replace(result, following=following)
        self._done[result.index] = result
        self._emit(PageDone(result=result))


def _groups(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    """The pages that go into one prompt each."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _check_wanted(cancel: threading.Event) -> None:
    if cancel.is_set():
        raise Cancelled("The request was cancelled before its first page.")
