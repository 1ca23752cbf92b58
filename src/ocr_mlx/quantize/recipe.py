"""Which layers a conversion packs, and how config.json tells other loaders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ocr_mlx.domain import Quantization
from ocr_mlx.errors import ModelError
from ocr_mlx.model.load import Checkpoint
from ocr_mlx.model.quantized import Packings, plan

_RECORDS: Final = ("quantization", "quantization_config")


def choose(checkpoint: Checkpoint, quantization: Quantization, mixed: bool = False) -> Packings:
    """The packing of each layer that the family's recipe names, `mixed` as the family understands it.

    Raises ModelError for impossible bits or group sizes, and where no layer can be packed.
    """
    packings = plan(checkpoint.module, checkpoint.family.recipe, quantization, mixed)
    if not packings:
        raise ModelError(
            f"No layer of this model can be quantized in groups of {quantization.group_size}.",
            hint="Choose a smaller group size.",
        )
    return packings


def record(config: Mapping[str, Any], packings: Packings, quantization: Quantization | None) -> dict[str, Any]:
    """config.json with the conversion written down as the MLX community does: the usual packing, then who differs."""
    kept = {name: value for name, value in config.items() if name not in _RECORDS}
    if quantization is None:
        return kept
    usual = {"group_size": quantization.group_size, "bits": quantization.bits}
    others = {
        path: own
        for path, packing in packings.items()
        if (own := {"group_size": packing.group_size, "bits": packing.bits}) != usual
    }
    return kept | {name: usual | others for name in _RECORDS}
