"""What the routes share that read while the client waits: addresses in JSON, and headers that tell of each page."""

from __future__ import annotations

from collections import Counter
from urllib.parse import quote

from ocr_mlx.domain import OcrResult, Source
from ocr_mlx.errors import SourceError
from ocr_mlx.observer import shown_model
from ocr_mlx.pages.source import parse_source

FORMS = ("file:", "http:", "https:", "data:")
_LISTED = 200
_HEAD = 256
"""Characters to look at for the address's form: a data URI may be a hundred million long."""


def source_of(filename: str) -> Source:
    """The document of an address; no bare paths. Decodes a data URI, so call it off the event loop. Raises SourceError."""
    if not filename or filename.isspace():
        raise SourceError("`filename` is empty.", hint="Give a file://, http(s):// or data: address.")
    if not filename[:_HEAD].lstrip().lower().startswith(FORMS):
        raise SourceError("`filename` is no address.", hint="Give a file://, http(s):// or data: address.")
    return parse_source(filename)


def headers(result: OcrResult) -> dict[str, str]:
    """What became of each page: a list such as `ok,truncated`, or counts such as `ok=998;failed=2` for many pages."""
    statuses = [page.status.value for page in result.pages for _ in (page.index, *page.following)]
    listed = ",".join(statuses) if len(statuses) <= _LISTED else _counts(statuses)
    told = {
        "X-OCR-MLX-Pages": str(len(statuses)),
        "X-OCR-MLX-Status": listed,
        "X-OCR-MLX-Model": quote(shown_model(result.model), safe="/:@ ~", errors="replace"),
    }
    reason = next((page.error.code for page in result.pages if page.error), "")
    return told | ({"X-OCR-MLX-Error": reason} if reason else {})


def _counts(statuses: list[str]) -> str:
    return ";".join(f"{status}={count}" for status, count in Counter(statuses).items())
