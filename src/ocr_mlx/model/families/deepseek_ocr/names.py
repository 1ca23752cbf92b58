"""The names of tensors and modules under which checkpoints of this family are around, and the graph's own for each.

The graph has the published names, spelling included, but for the experts: those are one stack per layer and projection,
`mlp.switch_mlp.{gate,up,down}_proj`, as MLX conversions have them. Transformers' names are those of its conversion table.
"""

from __future__ import annotations

import re
from typing import Final

MODEL_TYPES: Final = (
    "deepseek_vl_v2",
    "DeepseekOCR",
    "DeepseekOCR2",
    "deepseekocr",
    "deepseekocr_2",
    "deepseek_ocr",
    "deepseek_ocr2",
    "unlimited-ocr",
    "unlimited_ocr",
)
"""Published, re-saved by upstream's own code, MLX conversions, transformers, Unlimited-OCR."""
ARCHITECTURES: Final = (
    "DeepseekOCRForCausalLM",
    "DeepseekOCR2ForCausalLM",
    "DeepseekOcr2ForConditionalGeneration",
    "UnlimitedOCRForCausalLM",
    "UnlimitedOcrForConditionalGeneration",
)
_CLIP: Final = "model.vision_model."
_QUERY: Final = "model.qwen2_model."
_SAM: Final = "model.sam_model."
_PREFIXES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^language_model\.lm_head\b", r"lm_head"),
        (r"^(model\.)?language_model\.(model\.)?", r"model."),
        (r"^(model\.)?vision_tower\.sam_encoder\.", _SAM),
        (r"^(model\.)?vision_tower\.query_(768|1024)_resolution\b", rf"{_QUERY}query_\2"),
        (r"^(model\.)?vision_tower\.vision_encoder\.(layers|norm)\b", rf"{_QUERY}model.model.\2"),
        (r"^(model\.)?vision_tower\.vision_encoder\.encoder\.", rf"{_CLIP}transformer."),
        (r"^(model\.)?vision_tower\.vision_encoder\.", _CLIP),
        (r"^(model\.)?multi_modal_projector\b", r"model.projector.layers"),
        (r"^vision_model\.qwen2_encoder\.(layers|norm)\b", rf"{_QUERY}model.model.\1"),
        (r"^vision_model\.qwen2_encoder\.(query_\d+)$", rf"{_QUERY}\1.weight"),
        (r"^vision_model\.", _CLIP),
        (r"^qwen2_model\.", _QUERY),
        (r"^sam_model\.", _SAM),
        (r"^projector\.", r"model.projector."),
        (r"^image_newline$", r"model.image_newline"),
        (r"^(model\.)?view_sep[ae]rator$", r"model.view_seperator"),
    )
)
_SAM_PARTS: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^layers\.(\d+)\.layer_norm([12])\b", r"blocks.\1.norm\2"),
        (r"^layers\.", r"blocks."),
        (r"^patch_embed\.projection\b", r"patch_embed.proj"),
        (r"^neck\.conv1\b", r"neck.0"),
        (r"^neck\.layer_norm1\b", r"neck.1"),
        (r"^neck\.conv2\b", r"neck.2"),
        (r"^neck\.layer_norm2\b", r"neck.3"),
        (r"^proj\.conv1\b", r"net_2"),
        (r"^proj\.conv2\b", r"net_3"),
    )
)
_STACKED_DOWN: Final = re.compile(r"^(model\.layers\.\d+\.mlp)\.experts\.down_proj$")


def rename(name: str) -> str:
    """The graph's own name for a tensor or a module; a name of its own comes back as it is."""
    for pattern, replacement in _PREFIXES:
        name, found = pattern.subn(replacement, name, count=1)
        if found:
            break
    if name.startswith(_SAM):
        return _SAM + _part(name.removeprefix(_SAM))
    return _STACKED_DOWN.sub(r"\1.switch_mlp.down_proj.weight", name)


def _part(name: str) -> str:
    for pattern, replacement in _SAM_PARTS:
        name, found = pattern.subn(replacement, name, count=1)
        if found:
            break
    return name
