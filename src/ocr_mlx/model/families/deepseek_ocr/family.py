"""DeepSeek-OCR and DeepSeek-OCR-2: pages to Markdown with boxes, and whatever else they are asked about a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocr_mlx.domain import DecodeParams, Page, Prompt
from ocr_mlx.model.base import Family, Graph, Mode, PageText, Processor
from ocr_mlx.model.families.deepseek_ocr.modes import DEFAULT, all_modes
from ocr_mlx.model.families.deepseek_ocr.names import ARCHITECTURES, MODEL_TYPES, rename
from ocr_mlx.model.families.deepseek_ocr.recipe import recipe

_END = "<｜end▁of▁sentence｜>"
_NGRAM, _WINDOW, _CELLS = 30, 90, (128821, 128822)
"""Upstream's guard for single pictures; cells of tables may repeat: <td> and </td>."""


def build(config: Mapping[str, Any]) -> Graph:
    """The graph for a config.json; raises UnsupportedArchitecture."""
    from ocr_mlx.model.families.deepseek_ocr.model import build as build_graph

    return build_graph(config)


def processor(folder: Path, config: Mapping[str, Any]) -> Processor:
    """The processor of a checkpoint's folder; raises CheckpointIncomplete or UnsupportedArchitecture."""
    from ocr_mlx.model.families.deepseek_ocr.processor import read_processor

    return read_processor(folder, config)


def asks(prompt: Prompt, mode: Mode) -> str:
    """The question without its picture. Raises InvalidOption as the processor does."""
    from ocr_mlx.model.families.deepseek_ocr.prompts import question

    asked = question(prompt, mode)
    return f"{asked.before}{asked.after}".strip()


def clean(raw_text: str, page: Page, prompt: Prompt, mode: Mode) -> PageText:
    """Clean Markdown, and a block for each box."""
    from ocr_mlx.model.families.deepseek_ocr.postprocess import clean_page
    from ocr_mlx.model.families.deepseek_ocr.prompts import question

    return clean_page(raw_text.removesuffix(_END), page, question(prompt, mode).reading)


FAMILY = Family(
    name="deepseek_ocr",
    model_types=MODEL_TYPES,
    architectures=ARCHITECTURES,
    checkpoints=(
        "deepseek-ai/DeepSeek-OCR",
        "deepseek-ai/DeepSeek-OCR-2",
        "baidu/Unlimited-OCR",
        "mlx-community/DeepSeek-OCR-bf16",
        "mlx-community/DeepSeek-OCR-8bit",
        "mlx-community/DeepSeek-OCR-4bit",
        "mlx-community/DeepSeek-OCR-2-bf16",
        "mlx-community/DeepSeek-OCR-2-8bit",
    ),
    aliases={
        "deepseek": "deepseek-ai/DeepSeek-OCR",
        "deepseek-ocr": "deepseek-ai/DeepSeek-OCR",
        "deepseek-ocr-8bit": "mlx-community/DeepSeek-OCR-8bit",
        "deepseek-ocr-4bit": "mlx-community/DeepSeek-OCR-4bit",
        "deepseek-ocr-2": "deepseek-ai/DeepSeek-OCR-2",
        "deepseek-ocr-2-8bit": "mlx-community/DeepSeek-OCR-2-8bit",
        "unlimited-ocr": "baidu/Unlimited-OCR",
    },
    sizes={
        "deepseek-ai/DeepSeek-OCR": 6_672_212_480,
        "deepseek-ai/DeepSeek-OCR-2": 6_778_238_720,
    },
    licence="MIT (DeepSeek-OCR), Apache-2.0 (DeepSeek-OCR-2); Unlimited-OCR: see its model card",
    files=("*.json", "*.safetensors"),
    modes=all_modes(),
    default_mode=DEFAULT,
    defaults=DecodeParams(max_new_tokens=8192, no_repeat_ngram=_NGRAM, ngram_window=_WINDOW, ngram_whitelist=_CELLS),
    build=build,
    processor=processor,
    recipe=recipe,
    rename=rename,
    asks=asks,
    clean=clean,
    numbered=True,
    # As vLLM names them: boxes stand in special tokens, and its own form of the guard.
    extras={
        "skip_special_tokens": False,
        "vllm_xargs": {"ngram_size": _NGRAM, "window_size": _WINDOW, "whitelist_token_ids": list(_CELLS)},
    },
)
