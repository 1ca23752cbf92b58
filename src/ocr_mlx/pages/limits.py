"""What a document may cost. Checked before the cost is paid wherever a header says enough."""

from __future__ import annotations

from dataclasses import dataclass

MIN_DPI = 36.0
"""A PDF page that only fits its pixel limit below this resolution is refused: its text would not be legible."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageLimits:
    """Limits of one document.

    `max_bytes` of the file; `max_pixels` of one page, padding included (Pillow itself refuses images beyond 178,956,970
    whatever is set here); `max_pages` that are asked for, not that exist; `max_page_points` is the longest side of a
    PDF page in points (1/72 inch; the PDF standard ends at 14,400); `render_timeout` in seconds for opening a
    document or for one page of it; `memory` in bytes for each process that opens documents.
    """

    max_bytes: int = 100 * 1024 * 1024
    max_pixels: int = 52_000_000
    max_pages: int = 2000
    max_page_points: float = 14_400.0
    render_timeout: float = 15.0
    memory: int = 1024 * 1024 * 1024
