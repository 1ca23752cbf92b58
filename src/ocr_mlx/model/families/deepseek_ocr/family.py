"""DeepSeek-OCR and DeepSeek-OCR-2: pages to Markdown with boxes, and whatever else they are asked about a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocr_mlx.domain import DecodeParams
from ocr_mlx.model.base import Family, Graph, Processor
from ocr_mlx.model.families.deepseek_ocr.modes import DEFAULT, all_modes
from ocr_mlx.model.families.deepseek_ocr.names import ARCHITECTURES, MODEL_TYPES, rename
from ocr_mlx.model.families.deepseek_ocr.recipe import recipe


def build(config: Mapping[str, Any]) -> Graph:
    """The graph for a config.json; raises UnsupportedArchitecture."""
    from ocr_mlx.model.families.deepseek_ocr.model import build as build_graph

    return build_graph(config)


def processor(folder: Path, config: Mapping[str, Any]) -> Processor:
    """The processor of a checkpoint's folder; raises CheckpointIncomplete or UnsupportedArchitecture."""
    from ocr_mlx.model.families.deepseek_ocr.processor import read_processor

    return read_processor(folder, config)


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
    # Upstream's guard for single pictures; cells of tables may repeat: <td> and </td>.
    defaults=DecodeParams(max_new_tokens=8192, no_repeat_ngram=30, ngram_window=90, ngram_whitelist=(128821, 128822)),
    build=build,
    processor=processor,
    recipe=recipe,
    rename=rename,
)
