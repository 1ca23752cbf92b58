"""The single use case: a document goes in, events and one result per page come out. CLI, routes and jobs all call `run`.

`run` belongs to the caller's thread and is a small message loop. Bytes are fetched and the document is opened before a model
is asked for, so bad input costs nothing; pages are rendered and prepared by a few helper threads, ahead of the batch;
the worker decodes. Memory stays bounded by the pages in flight, however long the document is. A run that is to end does so
at once: what others still do for it is dropped when they come to it, and only then its model's lease ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ocr_mlx.domain import DocumentDone, OcrRequest, OcrResult, OnEvent, Page, PageResult
from ocr_mlx.engine.apart import apart
from ocr_mlx.engine.board import ModelBoard
from ocr_mlx.engine.cache import ModelCache
from ocr_mlx.engine.counted import Counted
from ocr_mlx.engine.document import Open, OpenDocument, pictures
from ocr_mlx.engine.held import Held
from ocr_mlx.engine.page_cache import PageCache
from ocr_mlx.engine.page_key import About, about
from ocr_mlx.engine.reading import PREPARING, Means, Reading
from ocr_mlx.engine.recall import Recalled, recall
from ocr_mlx.engine.remote import RemoteModel, RemoteOptions, is_reference
from ocr_mlx.engine.remote_reading import RemoteEngines, RemoteReading
from ocr_mlx.engine.stop import Stop, check_timeout
from ocr_mlx.engine.worker import Worker
from ocr_mlx.errors import Cancelled, OcrMlxError, QueueFull, ShuttingDown
from ocr_mlx.inference.options import check
from ocr_mlx.model.base import LoadedModel
from ocr_mlx.observer import Observer, report
from ocr_mlx.outputs.outcome import failure

_CLOSING_SECONDS = 30.0
"""A cancelled document ends at once; one whose listener does not return may take longer."""
_LAST_SECONDS = 2.0
"""What the step in progress gets once everything is to end."""

_MOST_MET = 64
_LATEST = 0.2
"""How much the document that ended last counts in how long one usually takes."""


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
        timeout: float | None = None,
        on_close: Callable[[], None] = lambda: None,
        board: ModelBoard | None = None,
        remote: RemoteEngines | None = None,
        known: PageCache | None = None,
        drafts: bool = False,
        observer: Observer | None = None,
        preparing: int = PREPARING,
    ) -> None:
        """`default_model` is read with when a request names none; `on_close` lets go of what `open_document` uses.

        `timeout` is for requests that name none; `known` are the pages that were read before; `drafts` lets a page's own
        words, or what was once read on it, make decoding faster; `preparing` pages are made ready at once.
        """
        self.cache = cache
        self._remote = remote or RemoteEngines(RemoteOptions())
        self.board = board or ModelBoard()
        self._worker = worker
        self._open = open_document
        self._default_model = default_model
        self._queue_limit = queue_limit
        self._timeout = timeout
        self._on_close = on_close
        self._known = known or PageCache()
        self._observer = observer or Observer()
        self._threads = ThreadPoolExecutor(preparing, thread_name_prefix="ocr-pages")
        self._means = Means(
            worker=worker, threads=self._threads, known=self._known, observer=self._observer, drafts=drafts
        )
        self._met: dict[str, About] = {}
        """Models that were in memory, by the names they were asked for with."""
        self._idle = threading.Condition()
        self._active: set[Stop] = set()
        self._leaving = 0
        """Documents that ended before others had let go of them. They keep their place in the queue until then."""
        self._usual: float | None = None
        """Seconds that a document has lately taken."""
        self._closing = False

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        """Read one document.

        `on_event` is called on this thread, in order: model progress, document started, then per page started, text and
        done (pages may interleave; one that cannot be prepared is done without having started), last document done.
        `cancel` is only looked at, so that several runs may share it: once it is set, pages that are not done end as
        `cancelled`, with the text they have. So do they when the request's time is over, which their error then says.
        Raises Cancelled when that is before the first page, InvalidOption for a mode, a prompt or a JSON schema
        that the model does not take, and OcrMlxError when the document as a whole cannot be read; a single bad page is a
        `failed` page.
        """
        stop = Stop(cancel)
        with self._admitted(stop):
            return self._watched(request, on_event or (lambda _event: None), stop)

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

    def close(self, *, drain: float = 0.0) -> bool:
        """Take no new work, give running work `drain` seconds, cancel the rest, unload and end all threads.

        False where a thread still computes, which nothing can stop: such a process should end without waiting for it.
        """
        with self._idle:
            self._closing = True
            self._idle.wait_for(lambda: not self._active, timeout=drain)
            for stop in self._active:
                stop.set()
            ended = self._idle.wait_for(lambda: not self._active, timeout=_CLOSING_SECONDS)
        self._threads.shutdown(wait=False)
        self._on_close()
        self._remote.close()
        with self._idle:
            ended = self._idle.wait_for(lambda: not self._leaving, timeout=_LAST_SECONDS) and ended
        self._known.close()
        self.cache.close()
        return self._worker.close(timeout=_LAST_SECONDS if ended else 0.0) and ended

    @contextmanager
    def _admitted(self, stop: Stop) -> Iterator[None]:
        with self._idle:
            if self._closing:
                raise ShuttingDown("The server is shutting down.", hint="Start it again and repeat the request.")
            taken = len(self._active) + self._leaving
            if taken >= self._queue_limit:
                raise QueueFull(
                    f"{taken} documents are being read already.",
                    hint="Try again in a moment.",
                    seconds=self._usual and self._usual / taken,
                )
            self._active.add(stop)
        try:
            yield
        except BaseException:
            stop.set()
            raise
        finally:
            with self._idle:
                self._active.discard(stop)
                self._idle.notify_all()

    def _watched(self, request: OcrRequest, on_event: OnEvent, stop: Stop) -> OcrResult:
        """Read it, and tell the observer how that went."""
        started = time.monotonic()
        error = OcrMlxError.code
        self._observer.document_started()
        try:
            result = self._run(request, Counted(on_event, self._observer), stop)
            bad = failure(result)
            error = bad.code if bad is not None else ""
            report(result)
            return result
        except OcrMlxError as problem:
            error = problem.code
            raise
        finally:
            seconds = time.monotonic() - started
            self._took(seconds)
            self._observer.document_done(error, seconds)

    def _took(self, seconds: float) -> None:
        """Note how long a document kept its place: where many end, the next one does after its share of that."""
        with self._idle:
            before = seconds if self._usual is None else self._usual
            self._usual = before + _LATEST * (seconds - before)

    def _run(self, request: OcrRequest, on_event: OnEvent, stop: Stop) -> OcrResult:
        started = time.monotonic()
        name = request.model or self._default_model
        check(request.overrides, name)
        check_timeout(request.timeout)
        remote = self._remote.find(name) if is_reference(name) else None
        held = Held()
        try:
            document = self._opened(request, on_event, stop, held)
            _check_wanted(stop)
            if remote is not None:
                used, pages = self._read_elsewhere(remote, document, request, on_event, stop)
            else:
                used, pages = self._read_here(name, document, request, on_event, stop, held)
        finally:
            self._give_back(held)
        result = OcrResult(model=used, pages=pages, seconds=time.monotonic() - started)
        on_event(DocumentDone(result=result))
        return result

    def _read_here(
        self, name: str, document: OpenDocument, request: OcrRequest, on_event: OnEvent, stop: Stop, held: Held
    ) -> tuple[str, tuple[PageResult, ...]]:
        recalled = self._recall(name, document, request, stop)
        if recalled is not None and recalled.whole:
            return recalled.about.ref.id, recalled.tell(on_event)
        model = self._leased(name, request, on_event, stop, held)
        _check_wanted(stop)
        self._meet(name, about(model))
        stop.limit(self._seconds(request))
        found = recalled.pages if recalled is not None and recalled.about == about(model) else {}
        reading = Reading(self._means, document, model, request, on_event, stop, found)
        held.hands = reading.hands
        return model.ref.id, reading.run()

    def _opened(self, request: OcrRequest, on_event: OnEvent, stop: Stop, held: Held) -> OpenDocument:
        def open_it(_tell: OnEvent) -> OpenDocument:
            document = self._open(request)
            held.stack.callback(document.close)
            return document

        return apart(open_it, on_event, stop, held)

    def _leased(self, name: str, request: OcrRequest, on_event: OnEvent, stop: Stop, held: Held) -> LoadedModel:
        def lease(tell: OnEvent) -> LoadedModel:
            leased = self.cache.lease(name, keep_alive=request.keep_alive, on_event=tell, cancel=stop)
            return held.stack.enter_context(leased)

        return lease(on_event) if self._is_here(name) else apart(lease, on_event, stop, held)

    def _is_here(self, name: str) -> bool:
        """Whether a model is in memory that was asked for by this name before."""
        met = self._met.get(name)
        return met is not None and any(model.id == met.ref.id for model in self.cache.snapshot())

    def _recall(self, name: str, document: OpenDocument, request: OcrRequest, stop: Stop) -> Recalled | None:
        """What is known of a document whose model was here before, and is not in memory now. A pin wants it there."""
        met = self._met.get(name)
        pins = request.keep_alive is not None and request.keep_alive < 0
        if met is None or pins or self._is_here(name):
            return None
        return recall(self._known, met, document, request, stop, self._observer)

    def _meet(self, name: str, model: About) -> None:
        if len(self._met) >= _MOST_MET:
            self._met.clear()
        self._met[name] = model

    def _read_elsewhere(
        self, remote: RemoteModel, document: OpenDocument, request: OcrRequest, on_event: OnEvent, stop: Stop
    ) -> tuple[str, tuple[PageResult, ...]]:
        stop.limit(self._seconds(request))
        reading = RemoteReading(self._remote, remote, self._threads, document, request, on_event, stop)
        return remote.model, reading.run()

    def _seconds(self, request: OcrRequest) -> float | None:
        return self._timeout if request.timeout is None else request.timeout

    def _give_back(self, held: Held) -> None:
        def gone() -> None:
            with self._idle:
                self._leaving -= 1
                self._idle.notify_all()

        with self._idle:
            self._leaving += 1
        held.give_back(gone)


def _check_wanted(stop: Stop) -> None:
    if stop.is_set():
        raise Cancelled("The request was cancelled before its first page.")
