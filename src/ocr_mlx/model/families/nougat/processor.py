"""Pages to rows and text to pages: upstream's way for Nougat, strips of lines for models trained on those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ocr_mlx.domain import Page, Prompt
from ocr_mlx.errors import CheckpointIncomplete, UnsupportedArchitecture
from ocr_mlx.model.base import Mode, ModelInputs, PageText, PreparedPage, RepetitionTest
from ocr_mlx.model.families.nougat.config import NougatConfig
from ocr_mlx.model.families.nougat.picture import PictureSettings, page_pixels
from ocr_mlx.model.families.nougat.postprocess import clean_page
from ocr_mlx.model.families.nougat.stopping import ScoreVarianceTest
from ocr_mlx.model.families.nougat.strips import StripSettings, split_page, strip_planes, tidy
from ocr_mlx.model.folder import member, read_json
from ocr_mlx.model.tokenizer import eos_ids, read_tokenizer, token_id

_PAGES = ("NougatImageProcessor", "NougatImageProcessorFast", "NougatImageProcessorPil")
_STRIPS = "LineStripImageProcessor"
_MOST_SIZE = 10_000
_START, _PAD, _END, _UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
Pixels = NDArray[np.float32]
_AGAIN = "Download or convert the model again."


class _Processor:
    """What both kinds share: the tokenizer, its special ids, the prompt of one start token."""

    dpi: float
    max_rows: int

    def __init__(self, folder: Path, config: NougatConfig, raw: Mapping[str, Any]) -> None:
        special = dict.fromkeys((_START, _PAD, _END, _UNKNOWN))
        self.tokenizer: Tokenizer = read_tokenizer(folder, special, vocabulary=config.decoder.vocab_size)
        self.eos_token_ids = eos_ids(folder, raw, (token_id(self.tokenizer, _END),))
        self.suppress_token_ids: tuple[int, ...] = (token_id(self.tokenizer, _UNKNOWN),)
        self._start = config.start_token_id
        self._limit = config.decoder.max_position_embeddings - 1

    def _row(self, pixels: Pixels, size: tuple[int, int] | None) -> ModelInputs:
        return ModelInputs(token_ids=(self._start,), pixels=pixels, prompt_tokens=1, effective_size=size)


class PageProcessor(_Processor):
    """A page is one row: margins cropped, scaled, centred on black, exactly as upstream does it with Pillow."""

    dpi = 96.0
    max_rows = 8

    def __init__(self, folder: Path, config: NougatConfig, raw: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        super().__init__(folder, config, raw)
        self._settings = PictureSettings.read(settings, config.encoder)

    def prepare(self, page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
        """Turn one page into one row. The model takes no prompt but its start token."""
        pixels = page_pixels(page.image, self._settings)
        return PreparedPage(rows=(self._row(pixels, (pixels.shape[1], pixels.shape[0])),))

    def postprocess(self, raw_text: str, page: Page, prepared: PreparedPage, mode: Mode) -> PageText:
        """Upstream's clean-up, as far as the mode asks for it; the white space at the page's ends goes."""
        if not mode.options.get("clean", True):
            return PageText(text=raw_text.strip())
        return PageText(text=clean_page(raw_text, markdown=mode.options.get("markdown", True)).strip())

    def repetition_test(self) -> RepetitionTest:
        """Upstream's variance test."""
        return ScoreVarianceTest(self.eos_token_ids, self._limit)


class StripProcessor(_Processor):
    """A page is one row for each strip of a line that the splitter finds."""

    dpi = 150.0
    max_rows = 64

    def __init__(self, folder: Path, config: NougatConfig, raw: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        super().__init__(folder, config, raw)
        own, known = settings.get("strip_settings", {}), {field.name for field in fields(StripSettings)}
        self._settings = StripSettings(**{name: _size(name, value) for name, value in own.items() if name in known})
        self.dpi = float(_size("dpi", settings.get("dpi", self.dpi)))
        if (self._settings.height, self._settings.width) != config.encoder.image_size:
            raise CheckpointIncomplete(
                f"preprocessor_config.json cuts strips of {self._settings.height} x {self._settings.width},"
                f" config.json expects {' x '.join(map(str, config.encoder.image_size))}.",
                hint=_AGAIN,
            )

    def prepare(self, page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
        """Turn one page into strips; none where nothing is printed on it."""
        strips = split_page(page.image, self._settings)
        if not strips:
            return PreparedPage(rows=(), glue=())
        planes = strip_planes(np.stack([strip.pixels for strip in strips])).transpose(0, 2, 3, 1)
        # Each line has a scale of its own, so there is no one size that the page was seen at.
        rows = tuple(self._row(np.ascontiguousarray(strip), None) for strip in planes)
        return PreparedPage(
            rows=rows, glue=tuple(strip.glue for strip in strips), boxes=tuple(strip.box for strip in strips)
        )

    def postprocess(self, raw_text: str, page: Page, prepared: PreparedPage, mode: Mode) -> PageText:
        """Tidied up: strips without text leave gaps."""
        return PageText(text=tidy(raw_text))

    def repetition_test(self) -> None:
        """None: a strip is shorter than upstream's test needs."""
        return


def _size(name: str, value: Any) -> Any:
    if not isinstance(value, int | float) or not 0 <= value <= _MOST_SIZE:
        raise CheckpointIncomplete(f"preprocessor_config.json: {name} is {value!r}, not a size.", hint=_AGAIN)
    return value


def read_processor(folder: Path, config: Mapping[str, Any]) -> PageProcessor | StripProcessor:
    """The processor that a checkpoint's files describe.

    Raises CheckpointIncomplete for a missing or useless file, UnsupportedArchitecture for another kind of processor.
    """
    settings = _read_settings(folder)
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if kind in _PAGES:
        return PageProcessor(folder, NougatConfig.read(config), config, settings)
    if kind == _STRIPS:
        return StripProcessor(folder, NougatConfig.read(config), config, settings)
    raise UnsupportedArchitecture(
        f"The image processor {kind!r} is not known.", hint=f"Known are {_PAGES[0]} and {_STRIPS}."
    )


def _read_settings(folder: Path) -> Mapping[str, Any]:
    own = member(folder, "preprocessor_config.json")
    if own.is_file():
        return read_json(own)
    joint = member(folder, "processor_config.json")
    nested = read_json(joint).get("image_processor") if joint.is_file() else None
    if isinstance(nested, Mapping):
        return nested
    raise CheckpointIncomplete(f"preprocessor_config.json is missing in {folder.name}.", hint=_AGAIN)
