"""The wire form of `/api/*`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Wire(BaseModel):
    """Names in camel case."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class ModeInfo(BaseModel):
    """A size at which DeepSeek-OCR looks at a page."""

    label: str
    description: str
    base_size: int
    image_size: int
    crop_mode: bool
    test_compress: bool
    speed: str
    quality: str


class Modes(Wire):
    """What may be asked, and within which limit."""

    default_prompt: str
    modes: dict[str, ModeInfo]
    max_image_mb: float


class Box(Wire):
    """Left, top, right, bottom: `absolute` in pixels of the layout's size, `normalized` from 0 to 999."""

    index: int
    absolute: list[int] = Field(min_length=4, max_length=4)
    normalized: list[int] = Field(min_length=4, max_length=4)


class Item(Wire):
    """A region that the model marked."""

    id: str
    label: str
    text: str = ""
    boxes: list[Box]


class Layout(Wire):
    """The regions of a page of `width` x `height` pixels: a picture's own, a PDF page's at 144 dpi."""

    width: int
    height: int
    items: list[Item]


class PageAnswer(Wire):
    """A page. `page_index` counts from 0."""

    page_index: int
    text: str
    raw_text: str
    layout: Layout | None = None
    image_data: str | None = Field(
        default=None,
        description="The page as a `data:` URI, no side above 2048 pixels; null beyond the first 50 pages.",
    )
    duration_ms: float
    status: str = Field(default="ok", description="ok, blank, truncated, loop_recovered, loop_stopped or failed.")
    error: str | None = Field(default=None, description="Why the page failed.")


class OcrAnswer(Wire):
    """A document."""

    mode: str
    prompt: str = Field(description="The prompt as it was used.")
    text: str = Field(description="Without marks; page heads where there is more than one page.")
    raw_text: str = Field(description="The model's own words.")
    duration_ms: float = Field(description="Waiting included.")
    file_name: str
    file_size: int = Field(description="Bytes.")
    created_at: str = Field(description="`YYYY-mm-dd HH:MM:SS`, the server's time.")
    is_pdf: bool
    history_id: str | None = Field(default=None, description="Null where no history is kept.")
    layout: Layout | None = Field(default=None, description="The first page's.")
    pages: list[PageAnswer]


class HistoryEntry(Wire):
    """A document in the list."""

    id: str
    created_at: str
    file_name: str
    file_size: int
    mode: str
    duration_ms: float
    pages: int
    is_pdf: bool


class HistoryList(Wire):
    """The latest first."""

    items: list[HistoryEntry]


class HistoryAnswer(OcrAnswer):
    """A document that is kept, with the names of its files."""

    id: str
    source_file: str | None
    page_files: list[str | None]


class Task(Wire):
    """A request that can be followed before it is sent."""

    task_id: str


class Progress(Wire):
    """How far a request is. `current` of `total` pages, 0 where that is not known yet."""

    stage: str
    current: int = 0
    total: int = 0
    message: str
    percent: int
