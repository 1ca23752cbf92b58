"""Documents whose pages were all read before: answered without their model, which may have left the memory meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ocr_mlx.domain import (
    DocumentStarted,
    OcrRequest,
    OnEvent,
    Page,
    PageDone,
    PageResult,
    PageStarted,
    TextDelta,
    resolve,
)
from ocr_mlx.engine.document import OpenDocument
from ocr_mlx.engine.page_cache import PageCache, repeats
from ocr_mlx.engine.page_key import About, identity, keys
from ocr_mlx.engine.stop import Stop
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.model.base import find_mode
from ocr_mlx.observer import Observer

MOST_PAGES: Final = 16
"""Of longer documents the model is asked for at once: looking at all pages before would keep its first page waiting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recalled:
    """What is known of a document: results by index, of `firsts`, the first pages of its prompts."""

    about: About
    firsts: tuple[int, ...]
    pages: Mapping[int, PageResult]

    @property
    def whole(self) -> bool:
        """Whether nothing is left to read."""
        return len(self.pages) == len(self.firsts)

    def tell(self, emit: OnEvent) -> tuple[PageResult, ...]:
        """All events of a whole document but the last, and its results."""
        emit(DocumentStarted(model=self.about.ref.id, pages=self.firsts))
        for first in self.firsts:
            retell(self.pages[first], emit)
        return tuple(self.pages[first] for first in self.firsts)


def recall(
    known: PageCache, model: About, document: OpenDocument, request: OcrRequest, stop: Stop, observer: Observer
) -> Recalled | None:
    """What is known from the first page on up to the first that must be read; None where it is no use to look.

    Raises InvalidOption for a mode that the model does not have.
    """
    mode = find_mode(model.family, request.prompt.mode)
    params = resolve(model.family.defaults, mode.overrides, request.overrides)
    useless = request.fresh or not known.is_on or not repeats(params) or len(document.indices) > MOST_PAGES
    if useless or identity(model.ref) != model.files:
        return None
    key_of = keys(model, request.prompt, mode, params, precision=known.precision)
    prompts = groups(document.indices, mode.pages_together)
    found: dict[int, PageResult] = {}
    for group in prompts:
        page = None if stop.is_set() else _page(document, group, request, request.dpi or model.dpi)
        result = known.get(key_of(page)) if page is not None else None
        if result is None:
            break
        observer.page_cache(True)
        found[group[0]] = replace(result, index=group[0], following=tuple(group[1:]))
    return Recalled(about=model, firsts=tuple(group[0] for group in prompts), pages=found)


def groups(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    """The pages that go into one prompt each."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def together(pages: Sequence[Page]) -> Page:
    """The pages of one prompt as one."""
    first, *others = pages
    return replace(first, following=tuple(other.image for other in others)) if others else first


def retell(result: PageResult, emit: OnEvent) -> None:
    """The events of a page that was read before, all at once."""
    emit(PageStarted(page=result.index))
    if result.raw_text:
        emit(TextDelta(page=result.index, text=result.raw_text, tokens=result.generated_tokens))
    emit(PageDone(result=result))


def _page(document: OpenDocument, group: Sequence[int], request: OcrRequest, dpi: float) -> Page | None:
    """None where one of them cannot be had."""

    def pages() -> Iterator[Page]:
        for index in group:
            yield document.page(index, dpi=dpi, padding=request.padding)

    try:
        return together(tuple(pages()))
    except OcrMlxError:
        return None
