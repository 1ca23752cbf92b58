"""Between the engine's records and the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ocr_mlx import errors
from ocr_mlx.domain import Block, OcrResult, PageResult
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.server.deepseek.pictures import Picture, data_uri
from ocr_mlx.server.deepseek.schemas import Box, Item, Layout, OcrAnswer, PageAnswer
from ocr_mlx.server.errors import status_of

MOST = 999
"""The far edge of a page in the model's own measure."""
NOT_A_PAGE = "仅支持图片或 PDF 文件。"
_ASKED_WRONG = (errors.PageError, errors.InvalidOption, errors.PromptTooLong)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the answer repeats of the request."""

    mode: str
    prompt: str
    file_name: str
    file_size: int
    is_pdf: bool


def to_answer(result: OcrResult, asked: Asked, pictures: Sequence[Picture | None], *, seconds: float) -> OcrAnswer:
    """The answer without a history id. `pictures` are those of the first pages; `seconds` since the request came."""
    drawn = [*pictures, *[None] * len(result.pages)]
    pages = [_page(page, picture) for page, picture in zip(result.pages, drawn, strict=False)]
    return OcrAnswer(
        mode=asked.mode,
        prompt=sound(asked.prompt),
        text=_joined([(page.page_index, page.text) for page in pages], "## 第 {} 页\n"),
        raw_text=_joined([(page.page_index, page.raw_text) for page in pages], "[Page {}]\n"),
        duration_ms=_milliseconds(seconds),
        file_name=sound(asked.file_name),
        file_size=asked.file_size,
        created_at=datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        is_pdf=asked.is_pdf,
        layout=pages[0].layout if pages else None,
        pages=pages,
    )


def _joined(pages: Sequence[tuple[int, str]], head: str) -> str:
    """The pages' texts, each under its head where there are several. Indices count from 0, heads from 1."""
    several = len(pages) > 1
    return "\n\n".join((head.format(index + 1) if several else "") + text for index, text in pages)


def _page(page: PageResult, picture: Picture | None) -> PageAnswer:
    return PageAnswer(
        page_index=page.index,
        text=sound(page.text),
        raw_text=sound(page.raw_text),
        layout=_layout(page.blocks, _size(page.blocks, picture)),
        image_data=data_uri(picture.jpeg) if picture else None,
        duration_ms=_milliseconds(page.seconds),
        status=page.status.value,
        error=sound(page.error.message) if page.error else None,
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)


def _size(blocks: Sequence[Block], picture: Picture | None) -> tuple[int, int] | None:
    """The page's pixels: as drawn, else as the boxes tell, where there are any."""
    if picture is not None:
        return picture.width, picture.height
    sizes = [
        (round(block.box[2] / block.normalized[2]), round(block.box[3] / block.normalized[3]))
        for block in blocks
        if block.normalized[2] > 0 and block.normalized[3] > 0
    ]
    return max(sizes, default=None)


def _layout(blocks: Sequence[Block], size: tuple[int, int] | None) -> Layout | None:
    if size is None:
        return None
    width, height = size
    return Layout(width=width, height=height, items=[_item(i, block, width, height) for i, block in enumerate(blocks)])


def _item(index: int, block: Block, width: int, height: int) -> Item:
    label = sound(block.label)
    left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in block.normalized)
    x1, x2 = _span(left, right, width)
    y1, y2 = _span(top, bottom, height)
    normalized = [round(MOST * edge) for edge in (left, top, right, bottom)]
    box = Box(index=0, absolute=[x1, y1, x2, y2], normalized=normalized)
    return Item(id=f"{label}-{index}", label=label, text=sound(block.text), boxes=[box])


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """Two edges in whole pixels, one pixel apart at least."""
    start = min(round(low * size), size - 1)
    return start, max(round(high * size), start + 1)


def sound(text: str) -> str:
    """Text that can be encoded."""
    return text.encode("utf-8", "replace").decode()


def too_large(most_mb: float) -> str:
    """What the service says of a file above its limit."""
    return f"图片体积超过限制（{float(most_mb)} MB）。"


def refusal(kind: type[OcrMlxError], message: str) -> tuple[int, str]:
    """The status and the detail of an error here: what the file or the prompt is to blame for is 400."""
    if issubclass(kind, errors.UnsupportedMedia):
        return 400, NOT_A_PAGE
    if issubclass(kind, _ASKED_WRONG):
        return 400, sound(message)
    if issubclass(kind, errors.ModelError) or kind is OcrMlxError:
        return 503, sound(message)
    return status_of(kind), sound(message)
