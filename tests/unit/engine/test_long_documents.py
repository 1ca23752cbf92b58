"""A document of hundreds of pages: what it holds at a time, and how long others wait for it."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

from ocr_mlx.domain import Event, OcrRequest, Page, PageDone
from tests.unit.engine.bench import bench
from tests.unit.fakes import FakeDocument, ids, request

PAGES = 500
TEXT = " ".join(str(number) for number in range(30))


class Watched(FakeDocument):
    """Counts the pictures that are alive."""

    def __init__(self, keys: list[int | None]) -> None:
        super().__init__(keys)
        self.alive = 0
        self.most = 0
        self._lock = threading.Lock()

    def page(self, index: int, *, dpi: float, padding: int = 0) -> Page:
        page = super().page(index, dpi=dpi, padding=padding)
        with self._lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(page.image, self._gone)
        return page

    def _gone(self) -> None:
        with self._lock:
            self.alive -= 1


def test_a_few_pages_are_held_at_a_time_and_their_pixels_go_with_them() -> None:
    with bench(max_rows=4) as b:
        b.document = document = Watched([0] * PAGES)
        gc.collect()
        gc.disable()
        try:
            pages = b.service.run(request()).pages
        finally:
            gc.enable()
        assert len(pages) == PAGES and all(page.text == "first page" for page in pages)
        assert max(b.graph.widths) == 4
        # in the batch, being prepared, done and not taken in yet
        assert document.most <= 4 + 2 + 2 + 2
        assert document.alive <= 2


def test_a_long_document_keeps_a_picture_waiting_for_a_page_and_no_more() -> None:
    with bench(max_rows=4) as b:
        b.model.processor.scripts[0] = [ids(TEXT)]  # type: ignore[attr-defined]
        long, short = FakeDocument([0] * PAGES), FakeDocument([0])
        b.service._open = lambda asked: short if asked.page_range else long
        cancel, running = threading.Event(), threading.Event()
        done = 0

        def on_event(event: Event) -> None:
            nonlocal done
            done += isinstance(event, PageDone)
            if done == 6:
                running.set()

        reader = threading.Thread(target=lambda: b.service.run(request(), on_event, cancel))
        reader.start()
        try:
            assert running.wait(20)
            for _ in range(3):
                steps, pages = len(b.graph.widths), done
                assert b.service.run(picture()).text == TEXT
                assert len(b.graph.widths) - steps <= 3 * len(TEXT)
                assert done - pages <= 12
        finally:
            cancel.set()
            reader.join(20)
        assert done == PAGES  # given up, most of them


def picture(**more: Any) -> OcrRequest:
    return request(page_range="1", **more)
