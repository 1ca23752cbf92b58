"""GOT-OCR 2.0: pages, regions and formulas to plain text or Mathpix markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocr_mlx.domain import DecodeOverrides, DecodeParams
from ocr_mlx.model.base import Family, Graph, Mode, Processor
from ocr_mlx.model.families.got_ocr2.names import rename

_HF, _ORIGINAL = "stepfun-ai/GOT-OCR-2.0-hf", "stepfun-ai/GOT-OCR2_0"
_FREE = DecodeOverrides(no_repeat_ngram=0)
"""Upstream repeats what it likes where it reads several pictures in one prompt."""
_PAGES = 8
"""More would make prompts of thousands of tokens and answers beyond the token limit."""
_MODES = (
    Mode(name="ocr", description="Plain text", prompt="OCR: "),
    Mode(
        name="format",
        description="Markdown with LaTeX for formulas and tables",
        prompt="OCR with format: ",
        options={"formatted": True},
    ),
    Mode(
        name="crop",
        description="As format, from up to 6 enlarged parts of the page: for dense or large pages",
        prompt="OCR with format upon the patch reference: ",
        overrides=_FREE,
        options={"formatted": True, "crop": True},
    ),
    Mode(
        name="crop-plain",
        description="Plain text from up to 6 enlarged parts of the page",
        prompt="OCR upon the patch reference: ",
        overrides=_FREE,
        options={"crop": True},
    ),
    Mode(
        name="box",
        description="Plain text of a region: the prompt is x1,y1,x2,y2 or x,y in page pixels",
        prompt="OCR: ",
        options={"asks": "box"},
    ),
    Mode(
        name="box-format",
        description="Markdown of a region: the prompt is x1,y1,x2,y2 or x,y in page pixels",
        prompt="OCR with format: ",
        options={"asks": "box", "formatted": True},
    ),
    Mode(
        name="color",
        description="Plain text inside a coloured frame: the prompt is red, green or blue",
        prompt="OCR: ",
        options={"asks": "color"},
    ),
    Mode(
        name="color-format",
        description="Markdown inside a coloured frame: the prompt is red, green or blue",
        prompt="OCR with format: ",
        options={"asks": "color", "formatted": True},
    ),
    Mode(
        name="multi-page",
        description=f"Markdown of up to {_PAGES} pages in one go, for text that runs on across pages",
        prompt="OCR with format across multi pages: ",
        overrides=_FREE,
        options={"formatted": True},
        pages_together=_PAGES,
    ),
)


def build(config: Mapping[str, Any]) -> Graph:
    """The graph for a config.json; raises UnsupportedArchitecture."""
    from ocr_mlx.model.families.got_ocr2.model import build as build_graph

    return build_graph(config)


def processor(folder: Path, config: Mapping[str, Any]) -> Processor:
    """The processor of a checkpoint's folder; raises CheckpointIncomplete or UnsupportedArchitecture."""
    from ocr_mlx.model.families.got_ocr2.processor import read_processor

    return read_processor(folder, config)


def recipe(path: str, mixed: bool) -> bool | Mapping[str, int]:
    """Which layers to quantize: the decoder's only, and in a mixed conversion its vocabulary with 8 bits."""
    if path.startswith(("model.vision_tower_high", "model.mm_projector_vary")):
        return False
    return {"bits": 8} if mixed and path.endswith(("embed_tokens", "lm_head")) else True


FAMILY = Family(
    name="got_ocr2",
    model_types=("got_ocr2", "GOT"),
    checkpoints=(_HF, _ORIGINAL),
    aliases={"got": _HF, "got-ocr": _HF, "got-ocr2": _HF},
    licence="Apache-2.0",
    files=("*.json", "*.safetensors", "*.tiktoken"),
    modes={mode.name: mode for mode in _MODES},
    default_mode="ocr",
    defaults=DecodeParams(max_new_tokens=4096, no_repeat_ngram=20, stop=("<|im_end|>",)),
    build=build,
    processor=processor,
    recipe=recipe,
    rename=rename,
    sizes={_HF: 1_121_057_280, _ORIGINAL: 1_432_066_560},
)
