"""A service without an engine, and a server around it on a real socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ocr_mlx.domain import (
    DocumentDone,
    DocumentStarted,
    OcrRequest,
    OcrResult,
    OnEvent,
    Page,
    PageDone,
    PageResult,
    PageStatus,
)
from ocr_mlx.endpoint import Sidecar, uvicorn_config
from ocr_mlx.engine.board import ModelState
from ocr_mlx.engine.cache import CachedModel, Evicted, Eviction, MemoryState
from ocr_mlx.jobs.base import Jobs
from ocr_mlx.pages.fetch import FetchLimits, fetch
from ocr_mlx.pages.media import detect
from ocr_mlx.server.app import create_app
from ocr_mlx.server.choice import ModelChoice
from ocr_mlx.server.deps import ServerContext
from ocr_mlx.server.running import DocumentRunner, EngineSlot
from ocr_mlx.settings import Settings
from ocr_mlx.utils import ports
from ocr_mlx.utils.logs import LogTail
from tests.wire.fake_jobs import FakeJobs

Behaviour = Callable[[OcrRequest, threading.Event], OcrResult]


def page(index: int = 0, text: str = "Hello", status: PageStatus = PageStatus.OK, **more: object) -> PageResult:
    return PageResult(index=index, text=text, raw_text=text, status=status, **more)  # type: ignore[arg-type]


def result(*pages: PageResult) -> OcrResult:
    return OcrResult(model="fake", pages=pages, seconds=0.5)


def says_hello(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
    return result(page())


def names_the_media(request: OcrRequest, _cancel: threading.Event) -> OcrResult:
    """Fetches the source as the engine would, and says what its bytes are."""
    data = fetch(request.source, FetchLimits(allow_private=True))
    return result(page(text=str(detect(data))))


@dataclass
class FakeCache:
    models: tuple[CachedModel, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    waiting: tuple[str, ...] = ()
    told: Evicted = field(default_factory=lambda: Evicted(gone=(), in_use=()))
    asked: list[str | None] = field(default_factory=list)

    def snapshot(self) -> tuple[CachedModel, ...]:
        return self.models

    def memory(self) -> MemoryState:
        held = sum(model.bytes for model in self.models)
        return MemoryState(limit=1000, held=held, process=77, waiting=self.waiting, evictions=self.evictions)

    def evict(self, name: str | None = None) -> Evicted:
        self.asked.append(name)
        return self.told


@dataclass
class FakeBoard:
    states: dict[str, ModelState] = field(default_factory=dict)

    def get(self, name: str) -> ModelState | None:
        return self.states.get(name)


@dataclass
class FakeService:
    behave: Behaviour = says_hello
    requests: list[OcrRequest] = field(default_factory=list)
    cache: FakeCache = field(default_factory=FakeCache)
    board: FakeBoard = field(default_factory=FakeBoard)
    drawn: tuple[Page | None, ...] = ()
    shown: list[OcrRequest] = field(default_factory=list)
    closed: bool = False

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        self.requests.append(request)
        emit = on_event or (lambda _event: None)
        found = self.behave(request, cancel or threading.Event())
        emit(DocumentStarted(model=found.model, pages=tuple(p.index for p in found.pages)))
        for done in found.pages:
            emit(PageDone(result=done))
        emit(DocumentDone(result=found))
        return found

    def inspect(self, request: OcrRequest) -> tuple[int, ...]:
        return tuple(page.index for page in self.behave(request, threading.Event()).pages)

    def pictures(self, request: OcrRequest, *, dpi: float, most: int) -> Iterator[Page | None]:
        self.shown.append(request)
        yield from self.drawn[:most]

    def close(self, *, drain: float = 0.0) -> None:
        self.closed = True


def context(
    service: FakeService,
    settings: Settings | None = None,
    *,
    port: int = 80,
    shutdown: Callable[[], None] = lambda: None,
    jobs: Jobs | None = None,
) -> ServerContext:
    settings = settings or Settings()
    engine = EngineSlot(lambda: service)
    jobs = jobs or FakeJobs()
    return ServerContext(
        settings=settings,
        engine=engine,
        runner=DocumentRunner(engine, threads=8),
        jobs=jobs,
        models=ModelChoice(settings, jobs.current_model),
        port=port,
        instance="test-instance",
        shutdown=shutdown,
        logs=LogTail(),
    )


@contextmanager
def serving(
    service: FakeService,
    settings: Settings | None = None,
    jobs: Jobs | None = None,
    shutdown: Callable[[], None] | None = None,
) -> Iterator[str]:
    """The address of a running server. `shutdown` is called instead of its end when a request asks for that."""
    settings = settings or Settings()
    with ports.listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        ready = threading.Event()
        made = context(service, settings, port=port, shutdown=shutdown or (lambda: server.end()), jobs=jobs)
        server = Sidecar(
            uvicorn_config(create_app(made), settings, made.instance), drain=settings.drain, on_ready=ready.set
        )
        server.expire = made.runner.stop
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            assert ready.wait(10)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.end()
            thread.join(20)
            made.runner.close()
            assert not thread.is_alive()
