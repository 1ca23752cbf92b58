"""What is counted while the server runs, for Prometheus to fetch.

Everything here is told by whoever does the work (`observer.Observer`, `RequestLog`), so that writing it out asks
nobody, waits for nobody and wakes no model. Labels take few values: route templates, codes, models that were loaded.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from ocr_mlx.domain import PageResult
from ocr_mlx.observer import Observer, outcome_code, shown_model

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
STATES = ("starting", "ready", "failed")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER = "other"
MOST_MODELS = 100
"""Models beyond so many share one label."""

_REQUEST = (0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_DOCUMENT = (0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
_PAGE = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 300.0)
_FIRST = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 60.0)
_STEP = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1.0)
_LOAD = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_SPEED = (5.0, 10.0, 20.0, 40.0, 80.0, 120.0, 160.0, 240.0, 320.0, 640.0, 1280.0)
_ROWS = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)


class Metrics(Observer):
    """Counts what `observer.Observer` and the web server tell. Any thread may call it."""

    def __init__(self, version: str = "", engine_state: Callable[[], str] = lambda: STATES[0]) -> None:
        """`version` is the program's; `engine_state` is one of STATES; it is asked at every scrape, so it must not wait."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's only switch for them is global
        self.registry = registry = CollectorRegistry()
        registry.register(_Process())
        build = Gauge("ocr_mlx_build_info", "The program's version.", ["version"], registry=registry)
        build.labels(version).set(1)
        engine = Gauge("ocr_mlx_engine_state", "1 for the state that the engine is in.", ["state"], registry=registry)
        for state in STATES:
            engine.labels(state).set_function(functools.partial(_is_in, engine_state, state))
        self._requests = _Requests(registry)
        self._documents = _Documents(registry)
        self._batch = _Batch(registry)
        self._models = _Models(registry)

    def text(self) -> bytes:
        """All of it in Prometheus's text format, of the type CONTENT_TYPE."""
        return generate_latest(self.registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One HTTP request was answered; `route` is its template, never the address that was asked for."""
        self._requests.done.labels(method if method in METHODS else OTHER, route, str(status)).inc()
        self._requests.seconds.labels(route).observe(seconds)

    def document_started(self) -> None:
        """See Observer."""
        self._documents.in_work.inc()

    def document_done(self, error: str, seconds: float) -> None:
        """See Observer."""
        self._documents.in_work.dec()
        self._documents.done.labels(outcome_code(error)).inc()
        self._documents.seconds.observe(seconds)

    def page_done(self, model: str, result: PageResult, first_token_seconds: float | None) -> None:
        """See Observer. What an earlier run did for a page out of the page cache is not counted again."""
        self._documents.pages.labels(self._models.label(model), result.status.value).inc()
        if not result.cached:
            self._documents.read(result, first_token_seconds)

    def prefilled(self, rows: int, seconds: float) -> None:
        """See Observer."""
        self._batch.prefilled_rows.inc(rows)
        self._batch.prefill.observe(seconds)

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """See Observer."""
        self._batch.rows.observe(rows)
        self._batch.decoded.inc(tokens)
        self._batch.step.observe(seconds)

    def waiting(self, rows: int) -> None:
        """See Observer."""
        self._batch.waiting.set(rows)

    def cache_bytes(self, held: int) -> None:
        """See Observer."""
        self._batch.cache.set(held)

    def page_cache(self, hit: bool) -> None:
        """See Observer."""
        self._documents.lookups.labels("hit" if hit else "miss").inc()

    def loaded(self, model: str, held: int, seconds: float) -> None:
        """See Observer."""
        self._models.loaded(model, held, seconds)

    def evicted(self, model: str, held: int, released: int) -> None:
        """See Observer."""
        self._models.evicted(model, held, released)


def _is_in(engine_state: Callable[[], str], state: str) -> float:
    return float(engine_state() == state)


class _Requests:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.done = Counter(
            "ocr_mlx_requests",
            "HTTP requests that were answered; the route is - where no route was reached.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "ocr_mlx_request_seconds",
            "From a request's first byte to its answer's last.",
            ["route"],
            buckets=_REQUEST,
            registry=registry,
        )


class _Documents:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.in_work = Gauge("ocr_mlx_documents_in_work", "Documents that are being read now.", registry=registry)
        self.done = Counter(
            "ocr_mlx_documents",
            "Documents that ended: ok where they have a result, else the code of what ended them.",
            ["outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            "ocr_mlx_document_seconds",
            "From a document's admission to its end, loading included.",
            buckets=_DOCUMENT,
            registry=registry,
        )
        self.pages = Counter(
            "ocr_mlx_pages",
            "Pages that ended, by status; the model is other where it runs elsewhere.",
            ["model", "status"],
            registry=registry,
        )
        self.tokens = Counter("ocr_mlx_tokens", "Tokens of pages that ended.", ["kind"], registry=registry)
        self.page = Histogram(
            "ocr_mlx_page_seconds",
            "From a page's start to its end, its wait for a place in the batch included.",
            buckets=_PAGE,
            registry=registry,
        )
        self.first = Histogram(
            "ocr_mlx_first_token_seconds", "From a page's start to its first token.", buckets=_FIRST, registry=registry
        )
        self.speed = Histogram(
            "ocr_mlx_page_tokens_per_second",
            "Generated tokens of a page by its seconds.",
            buckets=_SPEED,
            registry=registry,
        )
        self.drafted = Counter("ocr_mlx_drafted_tokens", "Tokens that drafts proposed.", registry=registry)
        self.accepted = Counter("ocr_mlx_accepted_tokens", "Proposed tokens that models confirmed.", registry=registry)
        self.lookups = Counter(
            "ocr_mlx_page_cache_lookups", "Pages looked up in the page cache.", ["result"], registry=registry
        )
        for counter, values in (
            (self.done, ("ok",)),
            (self.tokens, ("prompt", "generated")),
            (self.lookups, ("hit", "miss")),
        ):
            for value in values:
                counter.labels(value)  # so that it stands there with 0

    def read(self, result: PageResult, first_token_seconds: float | None) -> None:
        self.tokens.labels("prompt").inc(result.prompt_tokens)
        self.tokens.labels("generated").inc(result.generated_tokens)
        self.page.observe(result.seconds)
        if first_token_seconds is not None:
            self.first.observe(first_token_seconds)
        if result.generated_tokens and result.seconds > 0:
            self.speed.observe(result.generated_tokens / result.seconds)
        self.drafted.inc(result.drafted)
        self.accepted.inc(result.accepted)


class _Batch:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.waiting = Gauge("ocr_mlx_rows_waiting", "Rows that wait for a place in a batch.", registry=registry)
        self.rows = Histogram("ocr_mlx_batch_rows", "Rows of a decode step.", buckets=_ROWS, registry=registry)
        self.step = Histogram(
            "ocr_mlx_decode_step_seconds", "One decode step of a batch.", buckets=_STEP, registry=registry
        )
        self.decoded = Counter("ocr_mlx_decoded_tokens", "Tokens that decode steps gave.", registry=registry)
        self.prefill = Histogram(
            "ocr_mlx_prefill_seconds",
            "One vision pass and the reading of its prompts.",
            buckets=_PAGE,
            registry=registry,
        )
        self.prefilled_rows = Counter("ocr_mlx_prefilled_rows", "Rows of all vision passes.", registry=registry)
        self.cache = Gauge("ocr_mlx_kv_cache_bytes", "Held by the KV caches of running batches.", registry=registry)


class _Models:
    """A model gets a label of its own once it was loaded; whatever else is named has none."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._held: dict[str, int] = {}
        self._in_memory = Gauge("ocr_mlx_models_in_memory", "Models in memory now.", registry=registry)
        self._bytes = Gauge("ocr_mlx_model_bytes", "Weights in memory now.", ["model"], registry=registry)
        self._loads = Histogram(
            "ocr_mlx_model_load_seconds", "Loading a model.", ["model"], buckets=_LOAD, registry=registry
        )
        self._evictions = Counter("ocr_mlx_model_evictions", "Models unloaded.", ["model"], registry=registry)
        self._released = Counter(
            "ocr_mlx_model_released_bytes",
            "By how much the process's memory shrank at evictions.",
            ["model"],
            registry=registry,
        )

    def label(self, model: str) -> str:
        return shown_model(model) if model in self._known else OTHER

    def loaded(self, model: str, held: int, seconds: float) -> None:
        with self._lock:
            if len(self._known) < MOST_MODELS:
                self._known.add(model)
            self._held[model] = held
            self._show(model)
        self._loads.labels(self.label(model)).observe(seconds)

    def evicted(self, model: str, held: int, released: int) -> None:
        self._evictions.labels(self.label(model)).inc()
        self._released.labels(self.label(model)).inc(max(released, 0))
        with self._lock:
            self._held.pop(model, None)
            self._show(model)

    def _show(self, model: str) -> None:
        """Call with the lock held. Folders of one name share a label."""
        label = self.label(model)
        self._in_memory.set(len(self._held))
        self._bytes.labels(label).set(sum(held for one, held in self._held.items() if self.label(one) == label))


class _Process(Collector):
    """The process's own figures under the usual names. The library's collector knows them on Linux only."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._started = self._process.create_time()

    def collect(self) -> Iterator[Metric]:
        memory, times = self._process.memory_info(), self._process.cpu_times()
        cpu = times.user + times.system
        yield CounterMetricFamily("process_cpu_seconds", "User and system time.", value=cpu)
        yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", value=memory.rss)
        yield GaugeMetricFamily("process_virtual_memory_bytes", "Virtual memory.", value=memory.vms)
        yield GaugeMetricFamily("process_start_time_seconds", "Unix time of the start.", value=self._started)
        yield GaugeMetricFamily("process_threads", "Threads.", value=self._process.num_threads())
        if sys.platform != "win32":
            import resource

            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            yield GaugeMetricFamily("process_open_fds", "Open file descriptors.", value=self._process.num_fds())
            yield GaugeMetricFamily("process_max_fds", "Most file descriptors that may be open.", value=most)
