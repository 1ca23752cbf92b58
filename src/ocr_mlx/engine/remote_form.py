"""What a model elsewhere is asked in words, and how its words become a page's text: as its family does it here, if known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ocr_mlx.domain import DecodeOverrides, DecodeParams, Page, Prompt, resolve
from ocr_mlx.errors import InvalidOption
from ocr_mlx.model.base import PageText, find_mode
from ocr_mlx.model.registry import family_of, is_folder_name

TRANSCRIBE = (
    "Write down all text of this page in reading order, as Markdown, with tables as HTML and formulas as LaTeX."
    " Add nothing, leave nothing out, and give the text alone."
)
"""For models of no family here: general ones, which describe a picture that comes without words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """`words` go with the picture, none where empty; `clean` makes the page's text of the model's.

    `extras` are fields that only some engines know, and that others are asked without.
    """

    words: str
    params: DecodeParams
    clean: Callable[[str, Page], PageText]
    extras: Mapping[str, Any] = field(default_factory=dict)


def form_of(model: str, prompt: Prompt, overrides: DecodeOverrides) -> Form:
    """How to ask a model that others call so. Raises InvalidOption for a mode or a prompt that it does not take."""
    family = None if is_folder_name(model) else family_of(model)
    if family is None:
        if prompt.mode:
            raise InvalidOption(
                f"The remote model has no mode '{prompt.mode}' here.", hint="Ask with a prompt instead."
            )
        return Form(words=prompt.text or TRANSCRIBE, params=resolve(DecodeParams(), overrides), clean=_stripped)
    mode = find_mode(family, prompt.mode)
    if mode.pages_together > 1:
        raise InvalidOption(
            f"The mode '{mode.name}' cannot be asked of a remote engine.", hint="It takes page by page."
        )
    params = resolve(family.defaults, mode.overrides, overrides)

    def clean(raw: str, page: Page) -> PageText:
        return _stripped(raw, page) if params.json_schema else family.clean(raw, page, prompt, mode)

    return Form(words=family.asks(prompt, mode), params=params, clean=clean, extras=family.extras)


def _stripped(raw: str, _page: Page) -> PageText:
    return PageText(text=raw.strip())
