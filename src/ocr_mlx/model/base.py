"""What a model family must provide. Everything else in the program is blind to families.

Importing this module, or a family's `family.py`, must not import mlx: listing models costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ocr_mlx.domain import Block, Box, DecodeOverrides, DecodeParams, ModelRef, Page, Prompt
from ocr_mlx.errors import InvalidOption

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """A named preset of a family: its prompt, its decode options, and settings only the family understands.

    `pages_together` is how many pages one prompt takes; the first of them carries the text of all.
    """

    name: str
    description: str = ""
    prompt: str = ""
    overrides: DecodeOverrides = field(default_factory=DecodeOverrides)
    options: Mapping[str, Any] = field(default_factory=dict)
    pages_together: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInputs:
    """One row for the graph, as numpy.

    `token_ids` are the prompt's ids; `pixels` float32, channels last ([H, W, C] or [tiles, H, W, C]), None for text only;
    `extras` are further arrays under names that only the family knows; `effective_size` (width, height) in pixels seen.
    """

    token_ids: tuple[int, ...]
    pixels: NDArray[np.float32] | None
    extras: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    effective_size: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedPage:
    """A page as the graph wants it: usually one row, several where the family cuts a page up, none where it is blank.

    `glue[i]` stands before row i's text when the rows' texts are joined. `boxes[i]` is the part of the page that row i looks
    at, in pixels of the page's image; empty where every row looks at all of it. `context` goes back to `postprocess`.
    """

    rows: tuple[ModelInputs, ...]
    glue: tuple[str, ...] = ("",)
    boxes: tuple[Box, ...] = ()
    context: Any = None

    def join(self, texts: Sequence[str]) -> str:
        """The page's raw text: the rows' texts in order, each behind its glue."""
        return "".join(glue + text for glue, text in zip(self.glue, texts, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class PageText:
    """A page's final text and the regions the model grounded."""

    text: str
    blocks: tuple[Block, ...] = ()


class RepetitionTest(Protocol):
    """A family's own test for runaway output, one instance per row."""

    def update(self, token: int, max_logit: float) -> int | None:
        """Take the next token and its step's largest logit; return how many tokens to keep once it is a loop, or None."""
        ...


class Processor(Protocol):
    """Pages to rows and text to pages; numpy and Pillow, safe to call from several threads, no mlx."""

    tokenizer: Tokenizer
    dpi: float
    """PDF pages are rendered at this resolution unless the request says otherwise."""
    eos_token_ids: frozenset[int]
    suppress_token_ids: tuple[int, ...]
    """Ids that are never chosen."""
    max_rows: int
    """How many rows decode well together."""

    def prepare(self, page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
        """Turn one page into rows. Raises InvalidOption for a prompt or a mode that cannot be asked."""
        ...

    def postprocess(self, raw_text: str, page: Page, prepared: PreparedPage, mode: Mode) -> PageText:
        """Turn the joined raw text into what users get."""
        ...

    def repetition_test(self) -> RepetitionTest | None:
        """A fresh test for one row, or None where upstream has none."""
        ...


class DecodeState(Protocol):
    """Everything that changes while decoding, for a batch of rows."""

    @property
    def rows(self) -> int:
        """How many rows are in the batch."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held by the caches."""
        ...

    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate together with a step's tokens."""
        ...

    def merge(self, other: DecodeState) -> None:
        """Append the other state's rows behind this one's."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        ...

    def trim(self, counts: Sequence[int]) -> None:
        """Forget the last `counts[i]` tokens of row i."""
        ...

    def stand_apart(self) -> None:
        """From now on compute nothing of a row in a way that depends on the others' lengths, even where that is faster."""
        ...


class Graph(Protocol):
    """A model's forward passes. An `mlx.nn.Module` whose parameter names are the checkpoint's own."""

    max_positions: int
    """Prompt and generated tokens together never exceed this."""

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Change layouts, stack, drop what is not used, under the graph's own names; twice is once."""
        ...

    def prefill(self, inputs: Sequence[ModelInputs]) -> tuple[mx.array, DecodeState]:
        """Read rows whose pictures, extra arrays and prompts have the same shapes: first logits [B, V], and the state."""
        ...

    def decode(self, tokens: mx.array, state: DecodeState) -> mx.array:
        """Append `tokens` [B, K] to the state: logits [B, K, V]."""
        ...


def same_name(name: str) -> str:
    """The name as it is."""
    return name


def the_words(prompt: Prompt, mode: Mode) -> str:
    """The caller's words, else the mode's."""
    return prompt.text or mode.prompt


def as_it_is(raw_text: str, page: Page, prompt: Prompt, mode: Mode) -> PageText:
    """The model's own words."""
    return PageText(text=raw_text.strip())


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What a family's folder declares as `FAMILY`.

    `checkpoints` are hub ids that are known to work, `aliases` map short names to one of them, `sizes` say how many bytes
    their published weights take, at `published_bits` each, where known; `files` are the patterns to download; `build`
    makes the graph from config.json (and imports mlx only then); `processor` reads the folder; `recipe` answers, for a
    module path, whether (True), how (a Quantization-like mapping) or not (False) to quantize it.

    `architectures`, where given, must hold one of those that config.json names: a `model_type` may be ambiguous.
    `rename` turns a tensor's name or a module's path of any naming that is around into the graph's own; twice is once.
    `asks` and `clean` are for engines elsewhere, where no processor is: what to ask besides the picture, and the text and
    regions in the model's words; `extras` are fields beyond OpenAI's own that make such engines read as this family should.
    `bases` say which hub id stands in for the base that an adapter declares. A `general` family answers free questions, so
    that its answers can be held to a JSON schema. A `numbered` one names the page's number in its texts, as in the names of
    pictures, so that what was read of the same pixels in another place does not hold.
    """

    name: str
    model_types: tuple[str, ...]
    checkpoints: tuple[str, ...]
    aliases: Mapping[str, str]
    licence: str
    files: tuple[str, ...]
    modes: Mapping[str, Mode]
    default_mode: str
    defaults: DecodeParams
    build: Callable[[Mapping[str, Any]], Graph]
    processor: Callable[[Path, Mapping[str, Any]], Processor]
    recipe: Callable[[str, bool], bool | Mapping[str, int]]
    """(module path, mixed) -> quantize it?"""
    architectures: tuple[str, ...] = ()
    rename: Callable[[str], str] = same_name
    asks: Callable[[Prompt, Mode], str] = the_words
    clean: Callable[[str, Page, Prompt, Mode], PageText] = as_it_is
    extras: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    published_bits: int = 16
    bases: Mapping[str, str] = field(default_factory=dict)
    general: bool = False
    numbered: bool = False


def find_mode(family: Family, name: str) -> Mode:
    """The family's mode of this name, its default for an empty one; InvalidOption lists the names."""
    mode = family.modes.get(name or family.default_mode)
    if mode is None:
        known = ", ".join(family.modes)
        raise InvalidOption(f"The model has no mode '{name}'.", hint=f"Known modes: {known}.")
    return mode


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A model in memory. `bytes` counts its weights as they are held.

    `kept` is room for what others make of the model once and need as long as it is loaded.
    """

    ref: ModelRef
    family: Family
    graph: Graph
    processor: Processor
    bytes: int
    kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
