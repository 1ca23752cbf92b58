"""Qwen2-VL 2B and what was trained from it: QARI reads Arabic pages, with diacritics and layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocr_mlx.domain import DecodeOverrides, DecodeParams, Page, Prompt
from ocr_mlx.model.base import Family, Graph, Mode, PageText, Processor

PROMPT = (
    "Below is the image of one page of a document, as well as some raw textual content that was previously extracted"
    " for it. Just return the plain text representation of this document as if you were reading it naturally."
    " Do not hallucinate."
)
"""What every QARI version was trained with, the sentence about extracted text included though none is given."""
_QARI, _BASE = "NAMAA-Space/Qari-OCR-v0.3-VL-2B-Instruct", "Qwen/Qwen2-VL-2B-Instruct"
_BYTES = 4_417_971_200
_LEVELS = (
    ("model.visual", "visual"),
    ("model.language_model", "model"),
    ("vision_tower", "visual"),
    ("language_model.model", "model"),
    ("language_model.lm_head", "lm_head"),
)
"""(level of a newer or of the MLX community's naming, the published one)"""


def build(config: Mapping[str, Any]) -> Graph:
    """The graph for a config.json; raises UnsupportedArchitecture."""
    from ocr_mlx.model.families.qwen2_vl.model import build as build_graph

    return build_graph(config)


def processor(folder: Path, config: Mapping[str, Any]) -> Processor:
    """The processor of a checkpoint's folder; raises CheckpointIncomplete or UnsupportedArchitecture."""
    from ocr_mlx.model.families.qwen2_vl.processor import read_processor

    return read_processor(folder, config)


def rename(name: str) -> str:
    """The published name of a tensor or module that newer transformers or the MLX community name otherwise."""
    for level, published in _LEVELS:
        if name == level or name.startswith(f"{level}."):
            return published + name[len(level) :]
    return name


def clean(raw_text: str, _page: Page, _prompt: Prompt, mode: Mode) -> PageText:
    """The model's words in the mode's format."""
    from ocr_mlx.model.families.qwen2_vl.markup import formatted

    return PageText(text=formatted(raw_text, mode.options.get("format", "text")))


def recipe(path: str, mixed: bool) -> bool | Mapping[str, int]:
    """Which layers to quantize: the vision tower never, as in the MLX community's conversions; mixed keeps the vocabulary
    at 8 bits."""
    if path.startswith("visual."):
        return False
    return {"bits": 8} if mixed and path in ("model.embed_tokens", "lm_head") else True


FAMILY = Family(
    name="qwen2_vl",
    model_types=("qwen2_vl",),
    checkpoints=(
        _QARI,
        "NAMAA-Space/Qari-OCR-0.2.2.1-VL-2B-Instruct",
        "oddadmix/Qari-OCR-0.2.2.1-VL-2B-Instruct-merged",
        "NAMAA-Space/Qari-OCR-0.1-VL-2B-Instruct",
        _BASE,
        "mlx-community/Qwen2-VL-2B-Instruct-bf16",
        "mlx-community/Qwen2-VL-2B-Instruct-8bit",
        "mlx-community/Qwen2-VL-2B-Instruct-4bit",
    ),
    aliases={
        "qari": _QARI,
        "qari-0.3": _QARI,
        "qari-0.2": "NAMAA-Space/Qari-OCR-0.2.2.1-VL-2B-Instruct",
        "qari-0.2-merged": "oddadmix/Qari-OCR-0.2.2.1-VL-2B-Instruct-merged",
        "qari-0.1": "NAMAA-Space/Qari-OCR-0.1-VL-2B-Instruct",
        "qwen2-vl": _BASE,
        "qwen2-vl-2b": _BASE,
        "qwen2-vl-8bit": "mlx-community/Qwen2-VL-2B-Instruct-8bit",
        "qwen2-vl-4bit": "mlx-community/Qwen2-VL-2B-Instruct-4bit",
    },
    licence="Apache-2.0 (weights of Qwen2-VL-2B; QARI's: see their model cards)",
    files=("*.json", "*.safetensors", "pytorch_model*.bin", "adapter_model.bin"),
    modes={
        "text": Mode(name="text", description="Plain text: markup is removed, nothing is added", prompt=PROMPT),
        "markdown": Mode(
            name="markdown",
            description="Markdown: headings, lists and tables from the markup that QARI 0.3 writes",
            prompt=PROMPT,
            options={"format": "markdown"},
        ),
        "raw": Mode(
            name="raw", description="The model's own words, markup included", prompt=PROMPT, options={"format": "raw"}
        ),
        "full": Mode(
            name="full",
            description="Plain text, read at the picture's full resolution: slow, for small print",
            prompt=PROMPT,
            options={"full": True},
        ),
        "full-markdown": Mode(
            name="full-markdown",
            description="Markdown, read at the picture's full resolution",
            prompt=PROMPT,
            options={"format": "markdown", "full": True},
        ),
        "pages": Mode(
            name="pages",
            description="Four pages in one prompt, for questions of your own about a document (--prompt)",
            prompt="Read the text of these pages in order.",
            overrides=DecodeOverrides(max_new_tokens=8000),
            options={"format": "raw"},
            pages_together=4,
        ),
    },
    default_mode="text",
    defaults=DecodeParams(max_new_tokens=2000),
    build=build,
    processor=processor,
    recipe=recipe,
    rename=rename,
    clean=clean,
    sizes={
        _QARI: _BYTES,
        "oddadmix/Qari-OCR-0.2.2.1-VL-2B-Instruct-merged": _BYTES,
        _BASE: _BYTES,
        "mlx-community/Qwen2-VL-2B-Instruct-bf16": _BYTES,
    },
    bases={
        f"unsloth/{name}{packing}": _BASE
        for name in ("Qwen2-VL-2B-Instruct", "qwen2-vl-2b-instruct")
        for packing in ("", "-bnb-4bit", "-unsloth-bnb-4bit")
    },
    general=True,
)
