"""A long PDF and a picture, read by the built-in model at the same time."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from PIL import Image

from ocr_mlx.domain import Event, OcrRequest, PageDone, Upload
from ocr_mlx.engine.build import build_service
from ocr_mlx.settings import Settings

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "examples" / "page.png"
A_FEW = 16
"""Pages of the PDF that may be done while a picture waits for a place and is read."""


def pdf(pages: int) -> bytes:
    with Image.open(PAGE) as opened:
        page = opened.convert("L")
    out = io.BytesIO()
    page.save(out, "PDF", save_all=True, append_images=[page] * (pages - 1), resolution=100)
    return out.getvalue()


def test_a_long_pdf_keeps_a_picture_waiting_for_a_few_pages() -> None:
    settings = Settings.from_env({"OCR_MLX_MODEL": "builtin", "OCR_MLX_PAGE_CACHE_MB": "0"})
    service = build_service(settings.engine_options())
    picture, document = (OcrRequest(source=Upload(data=data)) for data in (PAGE.read_bytes(), pdf(100)))
    cancel, running = threading.Event(), threading.Event()
    done: list[int] = []

    def on_event(event: Event) -> None:
        if isinstance(event, PageDone):
            done.append(event.result.index)
            if len(done) == 8:
                running.set()

    reader = threading.Thread(target=lambda: service.run(document, on_event, cancel))
    try:
        text = service.run(picture).text
        reader.start()
        assert running.wait(120)
        for _ in range(3):
            before = len(done)
            assert service.run(picture).text == text
            assert len(done) - before <= A_FEW
    finally:
        cancel.set()
        reader.join(30)
        assert service.close()
