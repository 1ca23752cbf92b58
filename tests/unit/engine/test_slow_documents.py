"""A document whose pages take long to come leaves hands for the others, and one that takes long to open can be given up."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from ocr_mlx.domain import OcrRequest, OcrResult, Page
from ocr_mlx.errors import Cancelled
from tests.unit.engine.bench import bench
from tests.unit.fakes import FakeDocument, request


class _Slow(FakeDocument):
    """Its pages come when they are let go."""

    def __init__(self) -> None:
        super().__init__([0, 0, 0])
        self.asked_for = threading.Semaphore(0)
        self.go = threading.Event()

    def page(self, index: int, **how: Any) -> Page:
        self.asked_for.release()
        self.go.wait(20)
        return super().page(index, **how)


def test_another_document_is_read_while_one_waits_for_its_pages() -> None:
    with bench(preparing=4) as b:
        slow = b.document = _Slow()
        results: list[OcrResult] = []
        thread = threading.Thread(target=lambda: results.append(b.service.run(request())))
        thread.start()
        try:
            for _ in range(2):
                assert slow.asked_for.acquire(timeout=10)
            b.document = FakeDocument([0])
            assert b.service.run(request(timeout=10.0)).pages[0].status == "ok"
            assert not results
        finally:
            slow.go.set()
            thread.join()
        assert [page.status for page in results[0].pages] == ["ok", "ok", "ok"]


def test_a_document_that_does_not_open_can_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    opening, go, cancel = threading.Event(), threading.Event(), threading.Event()
    document = FakeDocument([0])

    def slowly(_request: OcrRequest) -> FakeDocument:
        opening.set()
        go.wait(20)
        return document

    with bench() as b:
        monkeypatch.setattr(b.service, "_open", slowly)
        threading.Thread(target=lambda: opening.wait(10) and cancel.set()).start()
        began = time.monotonic()
        try:
            with pytest.raises(Cancelled):
                b.service.run(request(), cancel=cancel)
            assert time.monotonic() - began < 10
        finally:
            go.set()
    assert document.closed  # when it was open at last
