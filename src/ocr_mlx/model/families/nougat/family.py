"""Nougat: pages of scientific papers to markdown, and the built-in model, which has the same graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocr_mlx.domain import DecodeParams
from ocr_mlx.model.base import Family, Graph, Mode, Processor


def build(config: Mapping[str, Any]) -> Graph:
    """The graph for a config.json; raises UnsupportedArchitecture."""
    from ocr_mlx.model.families.nougat.model import build as build_graph

    return build_graph(config)


def processor(folder: Path, config: Mapping[str, Any]) -> Processor:
    """The processor of a checkpoint's folder; raises CheckpointIncomplete or UnsupportedArchitecture."""
    from ocr_mlx.model.families.nougat.processor import read_processor

    return read_processor(folder, config)


def recipe(path: str, mixed: bool) -> bool | Mapping[str, int]:
    """Which layers to quantize. Positions never; mixed leaves the encoder alone and gives both vocabularies 8 bits."""
    if path.endswith("embed_positions"):
        return False
    if mixed and path.endswith(("embed_tokens", "lm_head")):
        return {"bits": 8}
    return not (mixed and path.startswith(("encoder.", "enc_to_dec_proj")))


FAMILY = Family(
    name="nougat",
    model_types=("vision-encoder-decoder",),
    checkpoints=("facebook/nougat-small", "facebook/nougat-base"),
    aliases={
        "nougat": "facebook/nougat-small",
        "nougat-small": "facebook/nougat-small",
        "nougat-base": "facebook/nougat-base",
    },
    licence="CC-BY-NC-4.0 (weights)",
    files=("*.json", "*.safetensors", "pytorch_model*.bin"),
    modes={
        "markdown": Mode(name="markdown", description="Markdown with LaTeX for formulas and tables, cleaned up"),
        "raw": Mode(name="raw", description="The model's own words, not cleaned up", options={"clean": False}),
    },
    default_mode="markdown",
    defaults=DecodeParams(max_new_tokens=4096),
    build=build,
    processor=processor,
    recipe=recipe,
    sizes={"facebook/nougat-small": 989_534_688, "facebook/nougat-base": 1_394_751_968},
    published_bits=32,
)
