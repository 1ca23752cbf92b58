"""Whether a model fits the memory that models may fill, and which ones go for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ocr_mlx.errors import OutOfMemory

_MEBIBYTE: Final = 2**20
SETTING: Final = "OCR_MLX_MEMORY_MB"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a model takes: `size` in bytes, `used` on any clock; `idle` means that nobody reads with it, so that it may go."""

    key: str
    size: int
    used: float
    idle: bool
    pinned: bool


def check_size(size: int, limit: int | None) -> None:
    """Raise OutOfMemory for a model that would not fit if it were alone; `limit` in bytes, None for none."""
    if limit is not None and size > limit:
        raise OutOfMemory(
            f"The model takes {_mib(size)} MiB of memory, and models may fill {_mib(limit, math.floor)} MiB.",
            hint=f"Set {SETTING} to {_mib(size)} or more if this machine has that, "
            "or use a smaller model, or one that is quantized and held as it is stored (OCR_MLX_DTYPE=stored).",
        )


def check_pinned(size: int, claims: Sequence[Claim], limit: int | None) -> None:
    """Raise OutOfMemory where only pinned models are in the way: waiting would not help."""
    pinned = sum(claim.size for claim in claims if claim.pinned)
    if limit is not None and pinned + size > limit:
        raise OutOfMemory(
            f"The model takes {_mib(size)} MiB of memory, pinned models hold {_mib(pinned)} MiB, "
            f"and all together may fill {_mib(limit, math.floor)} MiB.",
            hint=f"Unload one (POST /models/NAME/evict), or set {SETTING} to {_mib(pinned + size)} or more.",
        )


def leaving(size: int, claims: Sequence[Claim], limit: int | None) -> list[str] | None:
    """The idle models to unload so that `size` bytes fit: least recently used first, none in vain, pinned ones never.

    None where it does not fit now, whatever is unloaded.
    """
    if limit is None:
        return []
    free = limit - sum(claim.size for claim in claims)
    idle = sorted((claim for claim in claims if claim.idle and not claim.pinned), key=lambda claim: claim.used)
    going: list[Claim] = []
    for claim in idle:
        if free >= size:
            break
        going.append(claim)
        free += claim.size
    if free < size:
        return None
    for claim in reversed(going[:]):
        if free - claim.size >= size:
            going.remove(claim)
            free -= claim.size
    return [claim.key for claim in going]


def excludes(size: int, other: int, claims: Sequence[Claim], limit: int | None) -> bool:
    """Whether models of `size` and `other` bytes cannot be in memory together, beside the pinned ones of `claims`."""
    return limit is not None and size + other + sum(claim.size for claim in claims if claim.pinned) > limit


def _mib(size: int, rounding: Callable[[float], int] = math.ceil) -> int:
    return rounding(size / _MEBIBYTE)
