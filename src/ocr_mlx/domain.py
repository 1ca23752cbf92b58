"""The records that cross boundaries: pages, requests, results, events. Frozen, keyword-only, no behaviour beyond derivation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from PIL.Image import Image


class _Unset(Enum):
    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> Literal[False]:
        return False


UNSET: Final = _Unset.UNSET
Box = tuple[float, float, float, float]
"""left, top, right, bottom"""


# --- pages -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePath:
    """A file on this machine."""

    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteUrl:
    """An http or https address."""

    url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DataUri:
    """The decoded bytes of a `data:` URI. The media type is what the caller claims; the bytes decide."""

    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """Raw bytes that came with the request. The name is for messages only."""

    data: bytes = field(repr=False)
    name: str = ""


Source = FilePath | RemoteUrl | DataUri | Upload


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """One word of a PDF's text layer; `box` in page pixels."""

    text: str
    box: Box


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One page as pixels: `image` is RGB; `index` counts from 0; `dpi` is None where the source does not say.

    `following` are the images of the next pages where a mode reads several in one prompt.
    """

    index: int
    image: Image = field(repr=False)
    width: int
    height: int
    dpi: float | None
    origin: Literal["image", "pdf"]
    text_layer: tuple[Word, ...] | None = None
    following: tuple[Image, ...] = field(default=(), repr=False)


# --- ask -------------------------------------------------------------------------------------------------------------

ANY_JSON_OBJECT: Final = '{"type":"object"}'
"""The schema that every JSON object fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What to ask the model; empty means the mode's own prompt. `mode` is a family's preset name, or empty."""

    text: str = ""
    system: str = ""
    mode: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeParams:
    """How to turn logits into tokens. Temperature 0 is greedy; top_p counts only above temperature 0 and inside (0, 1).

    `repetition_penalty` divides (or multiplies) the logits of the last `repetition_window` tokens, 1.0 is off;
    `no_repeat_ngram` 0 is off; it looks for n-grams that start within the last `ngram_window` tokens (0: anywhere in the
    text, never in the prompt) and never bans the ids in `ngram_whitelist`; `top_k` 0 is off; `stop` are strings that end
    the text and are not part of it; `json_schema` is the text of a JSON schema that the answer must fit (`ANY_JSON_OBJECT`
    for no other wish than JSON), None for free text; only general families can be held to one.
    """

    max_new_tokens: int = 4096
    temperature: float = 0.0
    top_p: float = 0.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    no_repeat_ngram: int = 0
    ngram_window: int = 0
    ngram_whitelist: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    seed: int | None = None
    json_schema: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeOverrides:
    """The fields of DecodeParams, UNSET where the layer below decides."""

    max_new_tokens: int | _Unset = UNSET
    temperature: float | _Unset = UNSET
    top_p: float | _Unset = UNSET
    top_k: int | _Unset = UNSET
    repetition_penalty: float | _Unset = UNSET
    repetition_window: int | _Unset = UNSET
    no_repeat_ngram: int | _Unset = UNSET
    ngram_window: int | _Unset = UNSET
    ngram_whitelist: tuple[int, ...] | _Unset = UNSET
    stop: tuple[str, ...] | _Unset = UNSET
    seed: int | _Unset | None = UNSET
    json_schema: _Unset | str | None = field(default=UNSET, metadata={"union_mode": "left_to_right"})
    """The metadata is for pydantic, which otherwise reads the JSON form of UNSET as a schema."""


def resolve(defaults: DecodeParams, *layers: DecodeOverrides) -> DecodeParams:
    """Lay overrides over the family's defaults, the last layer on top: family <- mode <- server <- request."""
    values = {f.name: getattr(defaults, f.name) for f in fields(DecodeParams)}
    for layer in layers:
        values |= {f.name: v for f in fields(DecodeOverrides) if (v := getattr(layer, f.name)) is not UNSET}
    return DecodeParams(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class OcrRequest:
    """One document to read.

    `model` is an alias, a hub id or a folder, empty for the configured default; `page_range` is text such as `1-3,7`;
    `padding` adds that many white pixels on every side (negative crops); `dpi` overrides the model's own choice for PDF
    pages; `keep_alive` is how many seconds the model stays after this request (None: the setting, negative: for good);
    `timeout` is how many seconds reading may take from the moment the model is there (None: the setting); `fresh` reads
    every page again, whatever the page cache holds;
    `credential` is the caller's key for an engine elsewhere, never stored and never logged.
    """

    source: Source
    model: str = ""
    prompt: Prompt = field(default_factory=Prompt)
    overrides: DecodeOverrides = field(default_factory=DecodeOverrides)
    page_range: str = ""
    padding: int = 0
    dpi: float | None = None
    password: str | None = field(default=None, repr=False)
    keep_alive: float | None = None
    timeout: float | None = None
    fresh: bool = False
    credential: str = field(default="", repr=False)


# --- text ------------------------------------------------------------------------------------------------------------


class PageStatus(StrEnum):
    """How a page ended. Never a lie."""

    OK = "ok"
    BLANK = "blank"
    TRUNCATED = "truncated"
    LOOP_RECOVERED = "loop_recovered"
    LOOP_STOPPED = "loop_stopped"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Finish(StrEnum):
    """Why decoding of a row ended: the model's own end, a stop string, the token limit, a loop, or from outside."""

    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"
    LOOP = "loop"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A region the model grounded: `box` in page pixels, `normalized` in 0..1."""

    label: str
    text: str
    box: Box
    normalized: Box


@dataclass(frozen=True, kw_only=True, slots=True)
class PageError:
    """Why a page failed: the error's code and its message with the hint."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PageResult:
    """One page's outcome.

    `following` are the indices of further pages that were read in the same prompt: their text is in this result.
    `text` is cleaned by the family, `raw_text` the model's own words; `confidence` is the mean probability of the
    page's tokens, None when there are none; `effective_size` is the (width, height) in pixels that the model saw;
    `seconds` counts from the page's start to its end, loading excluded. `decode_steps` counts the passes through the model
    that the page's rows took after prefill, `drafted` the tokens that were proposed to them and `accepted` those of them that
    the model confirmed; `cached` is true where an earlier run of the same page gave the result.
    """

    index: int
    following: tuple[int, ...] = ()
    status: PageStatus
    text: str = ""
    raw_text: str = ""
    token_ids: tuple[int, ...] = ()
    blocks: tuple[Block, ...] = ()
    confidence: float | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    finish: Finish = Finish.EOS
    effective_size: tuple[int, int] | None = None
    seconds: float = 0.0
    decode_steps: int = 0
    drafted: int = 0
    accepted: int = 0
    cached: bool = False
    error: PageError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Token counts of a whole document."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class OcrResult:
    """The pages of a document, in the order asked for. `seconds` is the whole run, loading included."""

    model: str
    pages: tuple[PageResult, ...]
    seconds: float

    @property
    def text(self) -> str:
        """The pages' texts, joined by a blank line; pages without text leave no gap."""
        return "\n\n".join(page.text for page in self.pages if page.text)

    @property
    def usage(self) -> Usage:
        """Summed over the pages."""
        return Usage(
            prompt_tokens=sum(page.prompt_tokens for page in self.pages),
            completion_tokens=sum(page.generated_tokens for page in self.pages),
        )


# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelProgress:
    """A model is being fetched or loaded; `done` and `total` are bytes, 0 where unknown.

    `licence` is told once, before the first byte of a download.
    """

    model: str
    stage: Literal["downloading", "loading", "ready"]
    done: int = 0
    total: int = 0
    licence: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentStarted:
    """The document is open; `pages` are the indices of the results to come (the first page's, where a prompt takes several)."""

    model: str
    pages: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PageStarted:
    """The page's pixels are ready and it waits for or enters the batch."""

    page: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDelta:
    """More raw text of a page, in reading order; `tokens` counts what was decoded for it.

    Where a loop is taken back, a TextRewind says how much of it stays.
    """

    page: int
    text: str
    tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRewind:
    """A loop was taken back: of the raw text that came out for this page, only the first `length` characters stay."""

    page: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PageDone:
    """The page has its final result."""

    result: PageResult


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentDone:
    """All pages are done; always the last event."""

    result: OcrResult


Event = ModelProgress | DocumentStarted | PageStarted | TextDelta | TextRewind | PageDone | DocumentDone
OnEvent = Callable[[Event], None]


# --- models ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """How linear layers are stored: `bits` per weight, `group_size` weights share a scale."""

    bits: int
    group_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRef:
    """A model that is on this machine: `id` as asked for, `path` its folder, `revision` the hub commit where known.

    Where `id` is a LoRA adapter, `adapter` is its folder, and `path` that of the base it is merged into.
    """

    id: str
    path: Path
    revision: str | None = None
    quantization: Quantization | None = None
    adapter: Path | None = None
