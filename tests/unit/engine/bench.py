"""A service around the fake family, with the document to read next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ocr_mlx.domain import OcrRequest
from ocr_mlx.engine.cache import ModelCache
from ocr_mlx.engine.service import OcrService
from ocr_mlx.engine.worker import Worker
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.model.base import LoadedModel
from tests.unit.fakes import FakeClock, FakeDocument, ScriptGraph, fake_model, ids

SCRIPTS = [[ids("first page")], [ids("second, a little longer")], [ids("third"), ids("in two rows")]]


class Bench:
    def __init__(self, model: LoadedModel, **options: Any) -> None:
        self.model = model
        self.clock = FakeClock()
        self.document: FakeDocument | OcrMlxError = FakeDocument([0])
        self.loads = 0
        self.worker = Worker()
        self.service = OcrService(
            ModelCache(self._load, self.worker.call, self.clock, keep_alive=10),
            self.worker,
            self._open,
            default_model="fake",
            **options,
        )

    @property
    def graph(self) -> ScriptGraph:
        assert isinstance(self.model.graph, ScriptGraph)
        return self.model.graph

    def _load(self, name: str, on_event: object) -> LoadedModel:
        self.loads += 1
        return self.model

    def _open(self, _request: OcrRequest) -> FakeDocument:
        if isinstance(self.document, OcrMlxError):
            raise self.document
        return self.document


@contextmanager
def bench(max_rows: int = 8, **options: Any) -> Iterator[Bench]:
    """`options` are the service's."""
    made = Bench(fake_model([*SCRIPTS], max_rows=max_rows), **options)
    try:
        yield made
    finally:
        made.service.close()
