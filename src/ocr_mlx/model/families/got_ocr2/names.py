"""One name for each tensor under the four namings that are around; the graph has the original's.

original (GOT-OCR2_0)          published -hf                    transformers 5             MLX community
model.vision_tower_high.*      vision_tower.*                   model.vision_tower.*       vision_tower.*
….blocks.N.norm1               ….layers.N.layer_norm1           as -hf                     as the original
….neck.0 1 2 3                 ….neck.conv1 layer_norm1 conv2 … as -hf                     ….conv1 norm1 conv2 norm2
….net_2, ….net_3               multi_modal_projector.conv_…     model.multi_modal_…        vision_tower.net_2, net_3
model.mm_projector_vary        multi_modal_projector.multimo…   model.multi_modal_…        multi_modal_projector
model.layers.*                 language_model.model.*           model.language_model.*     language_model.model.*
"""

from __future__ import annotations

import re
from typing import Final

_TOWER: Final = r"model.vision_tower_high."
_RULES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(?:model\.)?multi_modal_projector\.conv_upsampler1(?=\.|$)", _TOWER + "net_2"),
        (r"^(?:model\.)?multi_modal_projector\.conv_upsampler2(?=\.|$)", _TOWER + "net_3"),
        (r"^(?:model\.)?multi_modal_projector(?:\.multimodal_projector)?(?=\.|$)", "model.mm_projector_vary"),
        (r"^(?:model\.)?vision_tower\.", _TOWER),
        (r"^language_model\.lm_head(?=\.|$)", "lm_head"),
        (r"^(?:model\.language_model|language_model\.model)\.", "model."),
        (r"^(model\.vision_tower_high\.patch_embed)\.projection(?=\.|$)", r"\1.proj"),
        (r"^(model\.vision_tower_high)\.layers\.(\d+)\.", r"\1.blocks.\2."),
        (r"^(model\.vision_tower_high\.blocks\.\d+)\.layer_norm([12])(?=\.|$)", r"\1.norm\2"),
        (r"^(model\.vision_tower_high)\.(?:neck\.)?conv1(?=\.|$)", r"\1.neck.0"),
        (r"^(model\.vision_tower_high)\.(?:neck\.layer_norm|norm)1(?=\.|$)", r"\1.neck.1"),
        (r"^(model\.vision_tower_high)\.(?:neck\.)?conv2(?=\.|$)", r"\1.neck.2"),
        (r"^(model\.vision_tower_high)\.(?:neck\.layer_norm|norm)2(?=\.|$)", r"\1.neck.3"),
    )
)


def rename(name: str) -> str:
    """The graph's name for a tensor or a module of any of the namings; twice is once."""
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    return name
