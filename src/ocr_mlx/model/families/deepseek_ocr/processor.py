"""Pages to rows and text to pages, for both versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from ocr_mlx.domain import Page, Prompt
from ocr_mlx.model.base import Mode, ModelInputs, PageText, PreparedPage
from ocr_mlx.model.families.deepseek_ocr import tokens
from ocr_mlx.model.families.deepseek_ocr.config import DeepseekConfig
from ocr_mlx.model.families.deepseek_ocr.modes import Reading
from ocr_mlx.model.families.deepseek_ocr.postprocess import clean_page
from ocr_mlx.model.families.deepseek_ocr.prompts import question
from ocr_mlx.model.families.deepseek_ocr.tiles import features, look, size_of
from ocr_mlx.model.layers.pixels import rgb
from ocr_mlx.model.tokenizer import eos_ids

_REDUCED: Final = 4
"""A feature stands for so many of SAM's patches in each direction."""


class DeepseekProcessor:
    """A page is one row: its whole view as `pixels`, and where it has tiles those as `tiles` with their `grid`.

    `grid` is (columns, rows).
    """

    dpi = 144.0
    max_rows = 8

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        own = DeepseekConfig.read(config)
        self._version = own.version
        self._image_token = own.image_token
        self._cell = own.sam.patch_size * _REDUCED
        self.tokenizer = tokens.read(folder, own.image_token)
        self.eos_token_ids = eos_ids(folder, config, (tokens.END_ID,))
        self.suppress_token_ids: tuple[int, ...] = ()

    def prepare(self, page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
        """Turn one page into one row. Raises InvalidOption for a size or a prompt that this model does not know."""
        asked = question(prompt, mode)
        size = size_of(self._version, mode.options["size"])
        view = look(rgb(page.image), size)
        places = features(self._version, size, view.grid, self._cell)
        ids = asked.ids(self.tokenizer, self._image_token, places)
        extras: dict[str, Any] = {}
        if view.tiles is not None:
            extras = {"tiles": view.tiles, "grid": np.array(view.grid, dtype=np.int64)}
        row = ModelInputs(
            token_ids=ids,
            pixels=view.whole,
            extras=extras,
            prompt_tokens=len(ids),
            effective_size=view.effective_size,
        )
        return PreparedPage(rows=(row,), context=asked.reading)

    def postprocess(self, raw_text: str, page: Page, prepared: PreparedPage, mode: Mode) -> PageText:
        """Clean Markdown, and a block for each box."""
        return clean_page(raw_text, page, prepared.context or Reading.ANY)

    def repetition_test(self) -> None:
        """None: upstream relies on its n-gram guard."""
        return


def read_processor(folder: Path, config: Mapping[str, Any]) -> DeepseekProcessor:
    """The processor of a checkpoint's folder; raises CheckpointIncomplete or UnsupportedArchitecture."""
    return DeepseekProcessor(folder, config)
