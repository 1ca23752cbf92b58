"""Work on its way: the engine that may still be starting, and documents that are read on threads of their own.

The event loop never waits for either. What nobody waits for any more is cancelled.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from starlette.types import Receive

from ocr_mlx.domain import DocumentStarted, Event, ModelProgress, OcrRequest, OcrResult, OnEvent, Page
from ocr_mlx.errors import Cancelled, OcrMlxError, ShuttingDown
from ocr_mlx.utils.logs import where

if TYPE_CHECKING:
    from ocr_mlx.engine.board import ModelState
    from ocr_mlx.engine.cache import CachedModel, Evicted, MemoryState

log = logging.getLogger(__name__)
T = TypeVar("T")

EngineState = Literal["starting", "ready", "failed"]


class Models(Protocol):
    """What is in memory (`engine.cache.ModelCache`)."""

    def snapshot(self) -> tuple[CachedModel, ...]:
        """The models in memory now."""
        ...

    def memory(self) -> MemoryState:
        """How full it is, and what went last."""
        ...

    def evict(self, name: str | None = None) -> Evicted:
        """Unload one model, or all that are idle; blocks."""
        ...


class Board(Protocol):
    """What is known of models on their way (`engine.board.ModelBoard`)."""

    def get(self, name: str) -> ModelState | None:
        """What is going on with a model, None for one that rests."""
        ...


class Service(Protocol):
    """The engine's use case (`engine.service.OcrService`)."""

    @property
    def cache(self) -> Models:
        """The models in memory."""
        ...

    @property
    def board(self) -> Board:
        """The models on their way into it."""
        ...

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        """Read one document; blocks."""
        ...

    def inspect(self, request: OcrRequest) -> tuple[int, ...]:
        """The indices of the pages that a request selects."""
        ...

    def pictures(self, request: OcrRequest, *, dpi: float, most: int) -> Iterator[Page | None]:
        """The first `most` pages that a request selects as pixels, one at a time."""
        ...

    def close(self, *, drain: float = 0.0) -> bool | None:
        """End. False where a thread still computes, which nothing can stop."""
        ...


class EngineSlot:
    """Builds the engine on a thread of its own, once, and lets others look or wait."""

    def __init__(self, build: Callable[[], Service]) -> None:
        self._build = build
        self._built: Future[Service] = Future()
        self._lock = threading.Lock()
        self._started = False

    def start(self) -> None:
        """Begin building, unless that has begun."""
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._fill, name="engine-start", daemon=True).start()

    def wait(self) -> Service:
        """The engine, when it is there. Blocks; raises what building it raised."""
        self.start()
        return self._built.result()

    def peek(self) -> Service | None:
        """The engine, if it is there already."""
        return self._built.result() if self.state == "ready" else None

    @property
    def state(self) -> EngineState:
        """Where the engine stands."""
        if not self._built.done():
            return "starting"
        return "failed" if self._built.exception() else "ready"

    def close(self) -> bool:
        """End the engine if it was built, cancelling what runs; False where a thread still computes."""
        service = self.peek()
        return service is None or service.close(drain=0.0) is not False

    def _fill(self) -> None:
        try:
            self._built.set_result(self._build())
        except OcrMlxError as error:
            log.error("the engine cannot start: %s", error.code)
            self._built.set_exception(error)
        except Exception as error:
            log.error("the engine cannot start: %s", where(error))
            reason = OcrMlxError(
                f"The engine cannot start ({type(error).__name__}).", hint="`ocr_mlx doctor` says what is missing."
            )
            reason.__cause__ = error
            self._built.set_exception(reason)


class DocumentRunner:
    """Runs documents on threads of their own."""

    def __init__(self, engine: EngineSlot, *, threads: int) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ocr-request")
        self._running: set[threading.Event] = set()
        self._stopped = False

    async def run(
        self, prepare: Callable[[], OcrRequest], receive: Receive, on_event: OnEvent | None = None
    ) -> OcrResult:
        """The result for the request that `prepare` makes (on the thread). `receive` says when the client has gone.

        `on_event` is called on the thread. Raises OcrMlxError; ShuttingDown when the server's end cut the document short.
        """
        cancel = self._admit()
        work = self._submit(prepare, on_event, cancel)
        try:
            await _unless_gone(work, receive, cancel)
            return self._whole(await work)
        finally:
            cancel.set()
            self._running.discard(cancel)

    def read(self, prepare: Callable[[], OcrRequest], on_event: OnEvent | None = None) -> Reading:
        """Begin to read; the caller takes the events, and must close what it gets. `on_event` too is called, on the thread."""
        cancel = self._admit()
        loop, told = asyncio.get_running_loop(), _Told()

        def both(event: Event) -> None:
            if on_event is not None:
                on_event(event)
            loop.call_soon_threadsafe(told.put, event)

        work = self._submit(prepare, both, cancel)
        work.add_done_callback(lambda _done: told.put(None))
        return Reading(work, told, cancel, check=self._whole, forget=lambda: self._running.discard(cancel))

    @property
    def stopped(self) -> bool:
        """Whether the server's end has come, so that streams should end too."""
        return self._stopped

    def stop(self) -> None:
        """Cancel all documents and take no more. Call it on the event loop's thread."""
        self._stopped = True
        for cancel in self._running:
            cancel.set()

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _admit(self) -> threading.Event:
        if self._stopped:
            raise _ending()
        cancel = threading.Event()
        self._running.add(cancel)
        return cancel

    def _submit(
        self, prepare: Callable[[], OcrRequest], on_event: OnEvent | None, cancel: threading.Event
    ) -> asyncio.Future[OcrResult]:
        context = contextvars.copy_context()

        def work() -> OcrResult:
            request = prepare()
            try:
                return self._engine.wait().run(request, on_event, cancel=cancel)
            except Cancelled:  # before its first page
                if self._stopped:
                    raise _ending() from None
                raise

        return asyncio.get_running_loop().run_in_executor(self._pool, lambda: context.run(work))

    def _whole(self, result: OcrResult) -> OcrResult:
        if self._stopped and any(page.status == "cancelled" for page in result.pages):
            raise _ending()
        return result


class _Told:
    """What a document told so far, on the event loop; None is its end."""

    def __init__(self) -> None:
        self.queue = asyncio.Queue[Event | None]()
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Event | None] = loop.create_future()
        """DocumentStarted, None where reading ended before that."""
        self.first: asyncio.Future[Event | None] = loop.create_future()
        """The first event that is about a page, None where reading ended before that."""

    def put(self, event: Event | None) -> None:
        self.queue.put_nowait(event)
        if isinstance(event, ModelProgress):
            return
        reached = self.started if isinstance(event, DocumentStarted) else self.first
        for future in (reached,) if event else (self.started, self.first):
            if not future.done():
                future.set_result(event)


class Reading:
    """A document that is being read, as events. Close it, or iterate `events` to the end."""

    def __init__(
        self,
        work: asyncio.Future[OcrResult],
        told: _Told,
        cancel: threading.Event,
        *,
        check: Callable[[OcrResult], OcrResult],
        forget: Callable[[], None],
    ) -> None:
        """`told` ends with None once `work` is done."""
        self._work = work
        self._told = told
        self._queue = told.queue
        self._cancel = cancel
        self._check = check
        self._forget = forget

    async def opened(self, receive: Receive, seconds: float) -> DocumentStarted | None:
        """Wait until the document is open and its model loaded, for `seconds` at most: None where that takes longer.

        `receive` says when the client has gone, which cancels. Raises what reading raises before that.
        """
        event = await self._reached(self._told.started, receive, seconds)
        return event if isinstance(event, DocumentStarted) else None

    async def begun(self, receive: Receive, seconds: float) -> None:
        """Wait until the first page is begun, for `seconds` at most. Raises what reading raises before that."""
        await self._reached(self._told.first, receive, seconds)

    async def _reached(self, point: asyncio.Future[Event | None], receive: Receive, seconds: float) -> Event | None:
        try:
            waited = asyncio.ensure_future(asyncio.wait({point}, timeout=seconds))
            await _unless_gone(waited, receive, self._cancel)
            if point.done() and point.result() is None:
                await self._work
            return point.result() if point.done() else None
        except BaseException:
            self.close()
            raise

    async def events(self) -> AsyncIterator[Event]:
        """All events, also those that were waited for; the last is DocumentDone.

        Raises OcrMlxError when reading fails on the way.
        """
        try:
            while (event := await self._queue.get()) is not None:
                yield event
            self._check(await self._work)
        finally:
            self.close()

    def close(self) -> None:
        """Cancel what is still running."""
        self._cancel.set()
        self._forget()
        self._work.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # told, so not "never retrieved"


async def _unless_gone(work: asyncio.Future[T], receive: Receive, cancel: threading.Event) -> T:
    """What `work` comes to; `cancel` is set when the client goes before that, or when nobody waits any more."""
    gone = asyncio.create_task(_disconnected(receive))
    either: set[asyncio.Future[Any]] = {work, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            cancel.set()
        return await work
    except BaseException:
        cancel.set()
        raise
    finally:
        gone.cancel()


def _ending() -> ShuttingDown:
    return ShuttingDown("The server is shutting down.", hint="Start it again and repeat the request.")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
