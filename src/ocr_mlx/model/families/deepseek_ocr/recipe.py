"""Which layers a conversion packs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_VISION: Final = ("model.sam_model.", "model.vision_model.", "model.qwen2_model.")
_PROJECTOR: Final = "model.projector."
_EXPERTS: Final = ".switch_mlp."


def recipe(path: str, mixed: bool) -> bool | Mapping[str, int]:
    """The vision towers never, as the MLX community does. Mixed also leaves the projector alone and packs everything
    else but the routed experts with 8 bits: those are five sixths of the weights.
    """
    if path.startswith(_VISION):
        return False
    if not mixed or _EXPERTS in path:
        return True
    return False if path.startswith(_PROJECTOR) else {"bits": 8}
