"""LightOnOCR: pages to markdown with HTML tables and LaTeX, and where the model knows it, boxes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ocr_mlx.domain import DecodeOverrides, DecodeParams, Page, Prompt
from ocr_mlx.model.base import Family, Graph, Mode, PageText, Processor

_ORG: Final = "lightonai"
_FULL: Final = (
    "LightOnOCR-2-1B",
    "LightOnOCR-3-1B",
    "LightOnOCR-1B-1025",
    "LightOnOCR-2-1B-base",
    "LightOnOCR-2-1B-bbox",
    "LightOnOCR-2-1B-bbox-base",
    "LightOnOCR-2-1B-bbox-soup",
    "LightOnOCR-2-1B-ocr-soup",
)
"""All of one graph and one size."""
_PRUNED: Final = {"LightOnOCR-0.9B-32k-1025": 1_834_348_544, "LightOnOCR-0.9B-16k-1025": 1_767_239_680}
_SIZES: Final = {f"{_ORG}/{name}": size for name, size in {**dict.fromkeys(_FULL, 2_011_295_744), **_PRUNED}.items()}
_COMMUNITY: Final = (
    "mlx-community/LightOnOCR-2-1B-bf16",
    "mlx-community/LightOnOCR-2-1B-8bit",
    "mlx-community/LightOnOCR-2-1B-4bit",
    "mlx-community/LightOnOCR-1B-1025-bf16",
    "mlx-community/LightOnOCR-1B-1025-4bit",
)
_PREFIXES: Final = (
    ("vision_tower.vision_model", "model.vision_encoder"),
    ("vision_tower", "model.vision_encoder"),
    ("model.vision_tower", "model.vision_encoder"),
    ("multi_modal_projector", "model.vision_projection"),
    ("model.multi_modal_projector", "model.vision_projection"),
    ("language_model.model", "model.language_model"),
    ("language_model.lm_head", "lm_head"),
)
"""What the MLX community, vLLM and transformers' mistral3 call the parts -> what the published files call them."""


def build(config: Mapping[str, Any]) -> Graph:
    """The graph for a config.json; raises UnsupportedArchitecture."""
    from ocr_mlx.model.families.lighton_ocr.model import build as build_graph

    return build_graph(config)


def processor(folder: Path, config: Mapping[str, Any]) -> Processor:
    """The processor of a checkpoint's folder; raises CheckpointIncomplete or UnsupportedArchitecture."""
    from ocr_mlx.model.families.lighton_ocr.processor import read_processor

    return read_processor(folder, config)


def rename(name: str) -> str:
    """The published name of a tensor or a module."""
    for prefix, own in _PREFIXES:
        if name == prefix or name.startswith(f"{prefix}."):
            return own + name[len(prefix) :]
    return name


def recipe(path: str, mixed: bool) -> bool | Mapping[str, int]:
    """Which layers to quantize: the decoder with its vocabulary; the tower and the projector never.

    Mixed keeps at 8 bits what suffers most: the vocabulary, which is both ends where it is tied, the values, and what
    leads out of the feed-forward network.
    """
    if path.startswith(("model.vision_encoder", "model.vision_projection")):
        return False
    if mixed and path.endswith(("embed_tokens", "lm_head", "v_proj", "down_proj")):
        return {"bits": 8}
    return True


def clean(raw_text: str, page: Page, _prompt: Prompt, mode: Mode) -> PageText:
    """Clean text and the regions that the model gave; the model's own words where the mode asks for them."""
    from ocr_mlx.model.families.lighton_ocr.postprocess import page_text

    if not mode.options.get("clean", True):
        return PageText(text=raw_text.strip())
    return page_text(raw_text, page.width, page.height)


FAMILY = Family(
    name="lighton_ocr",
    model_types=("mistral3", "lighton_ocr"),
    architectures=("LightOnOCRForConditionalGeneration", "LightOnOcrForConditionalGeneration"),
    checkpoints=(*_SIZES, *_COMMUNITY),
    sizes=_SIZES,
    aliases={
        "lighton": f"{_ORG}/LightOnOCR-2-1B",
        "lightonocr": f"{_ORG}/LightOnOCR-2-1B",
        "lighton-1": f"{_ORG}/LightOnOCR-1B-1025",
        "lighton-2": f"{_ORG}/LightOnOCR-2-1B",
        "lighton-2-bbox": f"{_ORG}/LightOnOCR-2-1B-bbox",
        "lighton-3": f"{_ORG}/LightOnOCR-3-1B",
        "lighton-16k": f"{_ORG}/LightOnOCR-0.9B-16k-1025",
        "lighton-32k": f"{_ORG}/LightOnOCR-0.9B-32k-1025",
        **{name.lower(): f"{_ORG}/{name}" for name in (*_FULL, *_PRUNED)},
    },
    licence="Apache-2.0",
    files=("*.json", "*.jinja", "*.safetensors"),
    modes={
        "markdown": Mode(
            name="markdown", description="Markdown with HTML tables and LaTeX; pictures as blocks with the bbox models"
        ),
        "grounding": Mode(
            name="grounding",
            description="Every block with its label and box (LightOnOCR-3 only)",
            prompt="grounding",
            overrides=DecodeOverrides(top_p=1.0),
        ),
        "raw": Mode(name="raw", description="The model's own words, not cleaned up", options={"clean": False}),
    },
    default_mode="markdown",
    defaults=DecodeParams(max_new_tokens=4096, temperature=0.2, top_p=0.9),
    build=build,
    processor=processor,
    recipe=recipe,
    rename=rename,
    clean=clean,
)
