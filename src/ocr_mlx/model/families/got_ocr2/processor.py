"""Pages to rows and text to pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ocr_mlx.domain import Page, Prompt
from ocr_mlx.model.base import Mode, ModelInputs, PageText, PreparedPage
from ocr_mlx.model.families.got_ocr2 import tokenizer as tokens
from ocr_mlx.model.families.got_ocr2.config import GotConfig
from ocr_mlx.model.families.got_ocr2.picture import PictureSettings, grid_for, pixels, tiles
from ocr_mlx.model.families.got_ocr2.postprocess import formatted, plain
from ocr_mlx.model.families.got_ocr2.prompt import conversation, query
from ocr_mlx.model.tokenizer import eos_ids


class GotProcessor:
    """A page is one row: its picture or its tiles, or with it the pictures of the pages that follow, in one prompt."""

    dpi = 200.0
    max_rows = 8
    suppress_token_ids: tuple[int, ...] = ()

    def __init__(self, folder: Path, raw: Mapping[str, Any]) -> None:
        config = GotConfig.read(raw)
        self.tokenizer: Tokenizer = tokens.read(folder, config.image_token)
        self._special = tokens.special_ids(config.image_token)
        ends = self._special[tokens.END_OF_TEXT], self._special[tokens.END]
        # Published files name only the first, which the model does not write.
        self.eos_token_ids = eos_ids(folder, raw, ends) | frozenset(ends)
        self._settings = PictureSettings.read(folder, config.vision.image_size)
        self._places = config.tokens_per_image

    def prepare(self, page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
        """Turn a page, and those that follow it in a mode that reads several together, into one row.

        Raises InvalidOption where the mode needs a box or a colour and the prompt names none.
        """
        task = query(prompt, mode, (page.width, page.height))
        side, pictures, grid = self._settings.side, [page.image, *page.following], (1, 1)
        if mode.options.get("crop"):
            grid = grid_for(page.image.width, page.image.height, side)
            pictures = tiles(page.image, grid, side)
        ids = conversation(self.tokenizer, self._special, task, len(pictures) * self._places, prompt.system)
        row = ModelInputs(
            token_ids=ids,
            pixels=pixels(pictures, self._settings),
            prompt_tokens=len(ids),
            effective_size=(grid[0] * side, grid[1] * side),
        )
        return PreparedPage(rows=(row,))

    def postprocess(self, raw_text: str, page: Page, prepared: PreparedPage, mode: Mode) -> PageText:
        """The text as the mode wants it; this model grounds nothing."""
        clean = formatted if mode.options.get("formatted") else plain
        return PageText(text=clean(raw_text))

    def repetition_test(self) -> None:
        """None: upstream has none."""
        return


def read_processor(folder: Path, config: Mapping[str, Any]) -> GotProcessor:
    """The processor of a checkpoint's folder; raises CheckpointIncomplete or UnsupportedArchitecture."""
    return GotProcessor(folder, config)
