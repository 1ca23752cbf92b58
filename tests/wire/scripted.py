"""The real service around the fake family, behind a server: scripted words, and decoding that stops when told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ocr_mlx.domain import OcrRequest, OcrResult, OnEvent
from ocr_mlx.engine.cache import ModelCache
from ocr_mlx.engine.service import OcrService
from ocr_mlx.engine.worker import Worker
from ocr_mlx.settings import Settings
from tests.unit.fakes import FakeClock, FakeDocument, ScriptGraph, fake_model, ids
from tests.wire.fakes import serving

WAIT = 10.0


class Gate:
    """Lets a number of passes through the model happen. Open unless `close` was called."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left: float = float("inf")
        self.waiting = False

    def close(self, after: int = 0) -> None:
        """Let `after` more passes happen."""
        with self._changed:
            self._left = after
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._left = float("inf")
            self._changed.notify_all()

    def __call__(self) -> None:
        with self._changed:
            self.waiting = self._left < 1
            assert self._changed.wait_for(lambda: self._left >= 1, WAIT), "nobody opened the gate"
            self._left -= 1
            self.waiting = False


class Scripted:
    """A server's engine that reads one document: page k says `texts[k]`, each a list of rows."""

    def __init__(self, texts: Sequence[Sequence[str]], max_rows: int) -> None:
        self.model = fake_model([[ids(row) for row in rows] for rows in texts], max_rows=max_rows)
        self.gate = Gate()
        self.graph.gate = self.gate
        self.document = FakeDocument(range(len(texts)))
        self.cancels: list[threading.Event] = []
        worker = Worker()
        cache = ModelCache(lambda _name, _on_event: self.model, worker.call, FakeClock(), keep_alive=10)
        self._service = OcrService(cache, worker, lambda _request: self.document, default_model="fake")
        self.cache = self._service.cache
        self.board = self._service.board
        self.inspect = self._service.inspect
        self.pictures = self._service.pictures

    @property
    def graph(self) -> ScriptGraph:
        assert isinstance(self.model.graph, ScriptGraph)
        return self.model.graph

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        self.cancels.append(cancel or threading.Event())
        return self._service.run(request, on_event, cancel)

    def close(self, *, drain: float = 0.0) -> None:
        self.gate.open()
        self._service.close(drain=drain)


@contextmanager
def reading(*texts: Sequence[str], max_rows: int = 8) -> Iterator[tuple[Scripted, str]]:
    """The engine and its server's address."""
    engine = Scripted(texts, max_rows)
    try:
        with serving(engine, Settings(drain=0.1)) as url:  # type: ignore[arg-type]
            yield engine, url
    finally:
        engine.close()
