"""The model's words to what users get: formulas mended, boxes taken out into blocks."""

from __future__ import annotations

from ocr_mlx.model.base import PageText
from ocr_mlx.model.families.lighton_ocr.dollars import fix_escaped_dollars
from ocr_mlx.model.families.lighton_ocr.grounding import grounded_text, is_grounded, pictured_text


def page_text(raw: str, width: int, height: int) -> PageText:
    """Clean text and blocks of a page of that many pixels. Whatever the model wrote, no words are lost."""
    mended = fix_escaped_dollars(raw)
    return (grounded_text if is_grounded(mended) else pictured_text)(mended, width, height)
