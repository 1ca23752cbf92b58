"""What the routes share: the engine that may still be starting, the threads that wait for it, who this server is."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from fastapi import Depends, Request
from starlette.types import Receive

from ocr_mlx.domain import OcrRequest, OcrResult, OnEvent
from ocr_mlx.errors import OcrMlxError, ShuttingDown
from ocr_mlx.settings import Settings
from ocr_mlx.utils.logs import LogTail, where

if TYPE_CHECKING:
    from ocr_mlx.engine.cache import CachedModel

log = logging.getLogger(__name__)

EngineState = Literal["starting", "ready", "failed"]


class Models(Protocol):
    """What is in memory (`engine.cache.ModelCache`)."""

    def snapshot(self) -> tuple[CachedModel, ...]:
        """The models in memory now."""
        ...


class Service(Protocol):
    """The engine's use case (`engine.service.OcrService`)."""

    @property
    def cache(self) -> Models:
        """The models in memory."""
        ...

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        """Read one document; blocks."""
        ...

    def close(self, *, drain: float = 0.0) -> None:
        """End."""
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

    def close(self) -> None:
        """End the engine if it was built, cancelling what runs."""
        service = self.peek()
        if service is not None:
            service.close(drain=0.0)

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
    """Runs documents on threads of their own, so that the event loop never waits, and cancels what nobody waits for."""

    def __init__(self, engine: EngineSlot, *, threads: int) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ocr-request")
        self._running: set[threading.Event] = set()
        self._stopped = False

    async def run(self, prepare: Callable[[], OcrRequest], receive: Receive) -> OcrResult:
        """The result for the request that `prepare` makes (on the thread). `receive` says when the client has gone.

        Raises OcrMlxError; ShuttingDown when the server's end cut the document short.
        """
        if self._stopped:
            raise _ending()
        cancel = threading.Event()
        self._running.add(cancel)
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._pool, lambda: context.run(self._work, prepare, cancel))
        gone = asyncio.create_task(_disconnected(receive))
        either: set[asyncio.Future[Any]] = {work, gone}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                cancel.set()
            result = await work
        finally:
            cancel.set()
            gone.cancel()
            self._running.discard(cancel)
        if self._stopped and any(page.status == "cancelled" for page in result.pages):
            raise _ending()
        return result

    def stop(self) -> None:
        """Cancel all documents and take no more. Call it on the event loop's thread."""
        self._stopped = True
        for cancel in self._running:
            cancel.set()

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _work(self, prepare: Callable[[], OcrRequest], cancel: threading.Event) -> OcrResult:
        request = prepare()
        return self._engine.wait().run(request, cancel=cancel)


def _ending() -> ShuttingDown:
    return ShuttingDown("The server is shutting down.", hint="Start it again and repeat the request.")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerContext:
    """Everything a route may need. `shutdown` ends the server after the answer has gone out."""

    settings: Settings
    engine: EngineSlot
    runner: DocumentRunner
    port: int
    instance: str
    shutdown: Callable[[], None]
    logs: LogTail = field(repr=False)


def context_of(request: Request) -> ServerContext:
    """The context that the application was made with."""
    context: ServerContext = request.app.state.context
    return context


Context = Annotated[ServerContext, Depends(context_of)]
