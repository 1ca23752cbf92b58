"""Puts the engine together: the only place that decides which parts it is made of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ocr_mlx.domain import ModelProgress, OcrRequest, OnEvent
from ocr_mlx.engine.remote import RemoteOptions
from ocr_mlx.pages.fetch import FetchLimits
from ocr_mlx.pages.load import PageLimits

if TYPE_CHECKING:
    from ocr_mlx.engine.board import ModelBoard
    from ocr_mlx.engine.cache import Load
    from ocr_mlx.engine.clock import IdleClock
    from ocr_mlx.engine.document import OpenDocument
    from ocr_mlx.engine.page_cache import PageCache
    from ocr_mlx.engine.service import OcrService
    from ocr_mlx.engine.worker import Worker
    from ocr_mlx.model.base import Family, LoadedModel
    from ocr_mlx.observer import Observer
    from ocr_mlx.pages.pool import PageProcesses

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What an engine needs to know. `keep_alive` in seconds; `max_rows` caps every model's batch, None leaves it to them."""

    default_model: str
    keep_alive: float
    offline: bool
    cache_dir: Path | None
    dtype: str | None
    queue_limit: int
    max_rows: int | None
    fetch: FetchLimits
    limits: PageLimits
    deterministic: bool = False
    drafts: bool = True
    timeout: float | None = None
    memory: int | None = None
    """Bytes that models may fill together; None: a share of what the device works best within."""
    page_cache_bytes: int = 0
    page_cache_dir: Path | None = None
    page_cache_ttl: float = 86_400.0
    render_processes: int = 2
    """Most processes that decode images and render PDFs."""
    trusted: frozenset[str] = frozenset()
    """Model folders that may be read wherever they are, since the operator named them."""
    remote: RemoteOptions = field(default_factory=RemoteOptions)

    def for_the_user(self) -> EngineOptions:
        """The same where only the user himself names engines elsewhere: every one is allowed."""
        return replace(self, remote=replace(self.remote, hosts=None))


def build_service(options: EngineOptions, observer: Observer | None = None) -> OcrService:
    """A running engine; close it when done. Imports mlx, so it takes a moment. `observer` is told what happens."""
    from ocr_mlx.pages.pool import PageProcesses

    processes = PageProcesses(options.limits, processes=options.render_processes)
    processes.warm()  # beside the imports
    try:
        return _assemble(options, observer, processes)
    except BaseException:
        processes.close()
        raise


def _assemble(options: EngineOptions, observer: Observer | None, processes: PageProcesses) -> OcrService:
    from ocr_mlx.engine.board import ModelBoard
    from ocr_mlx.engine.cache import ModelCache
    from ocr_mlx.engine.clock import SchedulerClock
    from ocr_mlx.engine.device import models_memory
    from ocr_mlx.engine.reading import PREPARING
    from ocr_mlx.engine.remote_reading import RemoteEngines
    from ocr_mlx.engine.service import OcrService
    from ocr_mlx.engine.worker import Worker
    from ocr_mlx.observer import Observer

    observer = observer or Observer()
    worker = Worker(max_rows=options.max_rows, deterministic=options.deterministic, observer=observer)

    def make_room(name: str, size: int) -> None:
        cache.make_room(name, size)

    board = ModelBoard(_identity)
    clock = SchedulerClock()
    limit = options.memory or models_memory()
    cache = ModelCache(
        _watched(_loader(options, worker, limit, make_room), board),
        worker.call,
        clock,
        keep_alive=options.keep_alive,
        limit=limit,
        observer=observer,
        identity=_identity,
    )
    return OcrService(
        cache,
        worker,
        _opener(options, processes),
        default_model=options.default_model,
        queue_limit=options.queue_limit,
        timeout=options.timeout,
        on_close=processes.close,
        board=board,
        remote=RemoteEngines(options.remote),
        known=_page_cache(options, clock),
        observer=observer,
        drafts=options.drafts and not options.deterministic,
        preparing=PREPARING * options.render_processes,
    )


def _page_cache(options: EngineOptions, clock: IdleClock) -> PageCache:
    from ocr_mlx.engine.page_cache import PageCache
    from ocr_mlx.engine.page_files import PageFiles

    folder = options.page_cache_dir
    return PageCache(
        options.page_cache_bytes,
        files=None if folder is None else PageFiles(folder, ttl=options.page_cache_ttl),
        clock=clock,
        precision=f"dtype {options.dtype}, deterministic {options.deterministic}",
    )


def _identity(name: str) -> str:
    """The same for every name of one model. Raises UnknownModel for a bare word that is no alias."""
    from ocr_mlx.model.registry import is_folder_name, resolve_name

    known = resolve_name(name)
    return str(Path(known).expanduser().resolve()) if is_folder_name(known) else known


def _watched(load: Load, board: ModelBoard) -> Load:
    """A loader whose attempts the board follows."""

    def watched(name: str, on_event: OnEvent) -> LoadedModel:
        with board.watching(name, on_event) as noted:
            return load(name, noted)

    return watched


def _loader(
    options: EngineOptions, worker: Worker, limit: int, make_room: Callable[[str, int], None]
) -> Callable[[str, OnEvent], LoadedModel]:
    """`limit` in bytes of memory for models; `make_room` is told how many a model will take, before it is read."""
    from ocr_mlx.engine.budget import check_size
    from ocr_mlx.engine.fence import check_folder, check_there
    from ocr_mlx.inference.failure import as_error
    from ocr_mlx.model.hub import find
    from ocr_mlx.model.load import expected_bytes, load_model

    def load(name: str, on_event: OnEvent) -> LoadedModel:
        check_folder(name, options.fetch.file_roots, {options.default_model, *options.trusted})
        check_there(name, options.trusted)
        check_size(_published_bytes(name, options.dtype), limit)

        def progress(done: int, total: int) -> None:
            on_event(ModelProgress(model=name, stage="downloading", done=done, total=total))

        def licence(family: Family, repo: str) -> None:
            log.info("downloading %s; licence of its weights: %s", repo, family.licence)
            on_event(ModelProgress(model=repo, stage="downloading", licence=family.licence))

        ref = find(
            name,
            offline=options.offline,
            cache_dir=options.cache_dir,
            on_progress=progress,
            on_download=licence,
            roots=None if _is_trusted(name, options) else options.fetch.file_roots,
        )
        on_event(ModelProgress(model=name, stage="loading"))
        make_room(name, expected_bytes(ref, dtype=options.dtype))
        try:
            return worker.call(lambda: load_model(ref, dtype=options.dtype)).result()
        except (MemoryError, RuntimeError) as problem:
            raise as_error(problem, "loading a model") from problem

    return load


def _published_bytes(name: str, dtype: str | None) -> int:
    """What a known model will take in memory, to be told before gigabytes are fetched in vain; 0 where nobody knows."""
    from ocr_mlx.engine.device import default_device
    from ocr_mlx.model.load import floats_of
    from ocr_mlx.model.registry import family_of, resolve_name

    family = family_of(name)
    size = 0 if family is None else family.sizes.get(resolve_name(name).partition("@")[0], 0)
    floats = floats_of("float32" if dtype is None and default_device().name == "cpu" else dtype)
    return size if floats is None or family is None else size * 8 * floats.size // family.published_bits


def _is_trusted(name: str, options: EngineOptions) -> bool:
    return name == options.default_model or name in options.trusted


def _opener(options: EngineOptions, processes: PageProcesses) -> Callable[[OcrRequest], OpenDocument]:
    from ocr_mlx.pages.fetch import fetch
    from ocr_mlx.pages.load import open_document

    def open_request(request: OcrRequest) -> OpenDocument:
        return open_document(
            fetch(request.source, options.fetch),
            limits=options.limits,
            renderer=processes,
            page_range=request.page_range,
            password=request.password,
        )

    return open_request
