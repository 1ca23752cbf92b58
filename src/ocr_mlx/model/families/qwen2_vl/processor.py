"""Pages to rows and text to pages. A page is one row; where a mode takes several pages, they share a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ocr_mlx.domain import Page, Prompt
from ocr_mlx.errors import CheckpointIncomplete, UnsupportedArchitecture
from ocr_mlx.model.base import Mode, ModelInputs, PageText, PreparedPage
from ocr_mlx.model.families.qwen2_vl.config import Qwen2VLConfig
from ocr_mlx.model.families.qwen2_vl.markup import formatted
from ocr_mlx.model.families.qwen2_vl.picture import PAGE_PIXELS, PictureSettings, picture_pixels
from ocr_mlx.model.families.qwen2_vl.prompt import Chat, end_ids, read_chat
from ocr_mlx.model.folder import member, read_json

_KINDS: Final = ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil")


class PageProcessor:
    """Qwen2-VL's processor, equal to upstream's but for two things: `PAGE_PIXELS`, and very long pictures."""

    dpi = 200.0
    max_rows = 8
    suppress_token_ids: tuple[int, ...] = ()

    def __init__(self, folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        parsed = Qwen2VLConfig.read(config)
        self._settings = PictureSettings.read(settings, parsed.vision)
        self._chat: Chat = read_chat(folder, parsed)
        self.tokenizer: Tokenizer = self._chat.tokenizer
        self.eos_token_ids = end_ids(folder, config, self._chat)

    def prepare(self, page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
        """Turn a page, with those that follow it in the same prompt, into one row."""
        most = None if mode.options.get("full") else PAGE_PIXELS
        first, *others = (picture_pixels(image, self._settings, most) for image in (page.image, *page.following))
        text = prompt.text or mode.prompt
        ids = self._chat.ids([self._tokens(picture) for picture in (first, *others)], text, prompt.system)
        row = ModelInputs(
            token_ids=ids,
            pixels=first,
            extras={f"picture {number}": picture for number, picture in enumerate(others, start=2)},
            prompt_tokens=len(ids),
            effective_size=(first.shape[1], first.shape[0]),
        )
        return PreparedPage(rows=(row,))

    def postprocess(self, raw_text: str, page: Page, prepared: PreparedPage, mode: Mode) -> PageText:
        """The model's words in the mode's format. Text stays in its logical order, whatever its direction."""
        return PageText(text=formatted(raw_text, mode.options.get("format", "text")))

    def repetition_test(self) -> None:
        """None: upstream has none."""
        return

    def _tokens(self, picture: NDArray[np.float32]) -> int:
        return int(picture.shape[0] * picture.shape[1]) // self._settings.factor**2


def read_processor(folder: Path, config: Mapping[str, Any]) -> PageProcessor:
    """The processor that a checkpoint's files describe.

    Raises CheckpointIncomplete for a missing or useless file, UnsupportedArchitecture for another kind of processor.
    """
    settings = _read_settings(folder)
    kind = settings.get("image_processor_type", _KINDS[0])
    if kind not in _KINDS:
        raise UnsupportedArchitecture(f"The image processor {kind!r} is not known.", hint=f"Known is {_KINDS[0]}.")
    return PageProcessor(folder, config, settings)


def _read_settings(folder: Path) -> Mapping[str, Any]:
    own, joint = member(folder, "preprocessor_config.json"), member(folder, "processor_config.json")
    if own.is_file():
        return read_json(own)
    nested = read_json(joint).get("image_processor") if joint.is_file() else None
    if isinstance(nested, Mapping):
        return nested
    raise CheckpointIncomplete(
        f"preprocessor_config.json is missing in {folder.name}.", hint="Download or convert the model again."
    )
