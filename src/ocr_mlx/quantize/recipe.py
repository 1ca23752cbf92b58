"""Which layers a conversion packs, and how config.json tells other loaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ocr_mlx.domain import Quantization
from ocr_mlx.errors import InvalidOption, ModelError
from ocr_mlx.model.load import Checkpoint, floats_of
from ocr_mlx.model.quantized import BITS, GROUP_SIZES, Packings, plan

_RECORDS: Final = ("quantization", "quantization_config")


def check_options(*, bits: int | None, group_size: int, mixed: bool, dtype: str | None) -> None:
    """Raise InvalidOption for a conversion that is possible for no model."""
    if mixed and bits is None:
        raise InvalidOption("`mixed` says how to quantize, but no bits are given.", hint="Add --bits 4 or --bits 8.")
    if bits is not None and bits not in BITS:
        raise InvalidOption(f"{bits} bits are not possible.", hint=f"Choose one of {_listed(BITS)}.")
    if bits is not None and group_size not in GROUP_SIZES:
        raise InvalidOption(
            f"A group size of {group_size} is not possible.", hint=f"Choose one of {_listed(GROUP_SIZES)}."
        )
    try:
        floats_of(dtype)
    except ModelError as error:
        raise InvalidOption(error.message, hint=error.hint) from error


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))


def choose(checkpoint: Checkpoint, quantization: Quantization, mixed: bool = False) -> Packings:
    """The packing of each layer that the family's recipe names, `mixed` as the family understands it.

    Raises InvalidOption where no layer can be packed in such groups.
    """
    packings = plan(checkpoint.module, checkpoint.family.recipe, quantization, mixed)
    if not packings:
        raise InvalidOption(
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
