"""The pages as small JPEGs for whoever shows the answer. Blocks: call it off the event loop."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

from ocr_mlx.domain import OcrRequest, Page
from ocr_mlx.server.running import Service

DPI = 144.0
"""Of a PDF page, and of the pixels in its layout."""
MOST_PAGES = 50
MOST_PIXELS = 2048
"""Longest side of the JPEG."""
_QUALITY = 85


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A page: its own size in pixels, and a JPEG of it that may be smaller."""

    width: int
    height: int
    jpeg: bytes = field(repr=False)


def draw(service: Service, request: OcrRequest) -> Iterator[Picture | None]:
    """The first pages of a document; None for one that cannot be had. Raises OcrMlxError."""
    for page in service.pictures(request, dpi=DPI, most=MOST_PAGES):
        yield None if page is None else _picture(page)


def _picture(page: Page) -> Picture:
    image = page.image.copy()
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return Picture(width=page.width, height=page.height, jpeg=out.getvalue())


def data_uri(jpeg: bytes) -> str:
    """The JPEG as a `data:` URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
