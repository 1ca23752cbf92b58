"""Pages to rows and text to pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ocr_mlx.domain import Page, Prompt
from ocr_mlx.model.base import Mode, ModelInputs, PageText, PreparedPage
from ocr_mlx.model.families.lighton_ocr.config import LightOnConfig
from ocr_mlx.model.families.lighton_ocr.picture import PictureSettings, page_pixels
from ocr_mlx.model.families.lighton_ocr.postprocess import page_text
from ocr_mlx.model.families.lighton_ocr.prompt import END, IMAGE, START, TEXT_END, ChatPrompt, ChatStyle
from ocr_mlx.model.folder import member, read_json
from ocr_mlx.model.tokenizer import eos_ids, read_tokenizer


class LightOnProcessor:
    """A page is one row: its picture's tokens between the words of the chat template."""

    dpi = 200.0
    max_rows = 4
    suppress_token_ids: tuple[int, ...] = ()

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        own = LightOnConfig.read(config)
        special = {START: None, END: None, TEXT_END: None, IMAGE: own.image_token_id}
        self.tokenizer: Tokenizer = read_tokenizer(folder, special)
        self.tokenizer.encode_special_tokens = True  # a user's text must not hold image tokens
        ends = (self.tokenizer.token_to_id(END), self.tokenizer.token_to_id(TEXT_END))
        # Published files name one of the two, or both.
        self.eos_token_ids = eos_ids(folder, config, ()) | {id_ for id_ in ends if id_ is not None}
        self._prompt = ChatPrompt(self.tokenizer, ChatStyle.read(folder))
        self._settings = _read_settings(folder, own)

    def prepare(self, page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
        """Turn one page, and the pages that share its prompt, into one row."""
        pictures = [page_pixels(image, self._settings) for image in (page.image, *page.following)]
        counts = [self._settings.tokens(picture) for picture in pictures]
        ids = self._prompt.ids(counts, prompt.text or mode.prompt, prompt.system)
        first, *more = pictures
        row = ModelInputs(
            token_ids=ids,
            pixels=first,
            extras={f"picture_{number:04d}": picture for number, picture in enumerate(more, start=2)},
            prompt_tokens=len(ids),
            effective_size=(first.shape[1], first.shape[0]),
        )
        return PreparedPage(rows=(row,))

    def postprocess(self, raw_text: str, page: Page, prepared: PreparedPage, mode: Mode) -> PageText:
        """Clean text and the regions that the model gave; the model's own words where the mode asks for them."""
        if not mode.options.get("clean", True):
            return PageText(text=raw_text.strip())
        return page_text(raw_text, page.width, page.height)

    def repetition_test(self) -> None:
        """None: upstream has no such test."""
        return


def read_processor(folder: Path, config: Mapping[str, Any]) -> LightOnProcessor:
    """The processor that a checkpoint's files describe.

    Raises CheckpointIncomplete for a missing or useless file, UnsupportedArchitecture for settings of another model.
    """
    return LightOnProcessor(folder, config)


def _read_settings(folder: Path, config: LightOnConfig) -> PictureSettings:
    joint, own = (_optional(folder, name) for name in ("processor_config.json", "preprocessor_config.json"))
    nested = joint.get("image_processor")
    return PictureSettings.read(joint, nested if isinstance(nested, Mapping) else own, config)


def _optional(folder: Path, name: str) -> Mapping[str, Any]:
    path = member(folder, name)
    return read_json(path) if path.is_file() else {}
