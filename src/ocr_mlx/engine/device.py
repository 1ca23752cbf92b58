"""What this machine computes on, and how much memory models may fill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ocr_mlx.utils.blas import load_blas

_MODELS_SHARE: Final = 3 / 4
"""Of the memory; the rest is for pages, batches, and other programs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """`name` as in `cpu` or `gpu`; `memory` in bytes that it works best within, None where it does not say."""

    name: str
    detail: str
    memory: int | None


def default_device() -> Device:
    """The device that arrays live on. Imports mlx, a BLAS before it."""
    load_blas()
    import mlx.core as mx

    device = mx.default_device()
    info = mx.device_info(device) if hasattr(mx, "device_info") else {}
    memory = info.get("max_recommended_working_set_size") or info.get("total_memory") or info.get("memory_size")
    return Device(
        name="cpu" if device == mx.cpu else "gpu",
        detail=str(info.get("device_name") or info.get("architecture") or ""),
        memory=int(memory) if memory else None,
    )


def models_memory() -> int:
    """The bytes that models may fill when nobody says: a share of what the device works best within. Imports mlx."""
    return int(_MODELS_SHARE * (default_device().memory or machine_memory()))


def machine_memory() -> int:
    """The machine's memory in bytes, or the container's where that has less."""
    import psutil

    groups = _group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return min([int(psutil.virtual_memory().total), *groups])


def _group_limits(membership: Path, root: Path) -> Iterator[int]:
    """The limits of this process's control groups (Linux), of the second version or the first; none elsewhere."""
    lines = ""
    with suppress(OSError):
        lines = membership.read_text("utf-8")
    for line in lines.splitlines():
        _, kinds, place = line.split(":", 2)
        if kinds == "":
            yield from _limits_up(root, place, "memory.max")
        elif "memory" in kinds.split(","):
            yield from _limits_up(root / "memory", place, "memory.limit_in_bytes")


def _limits_up(root: Path, place: str, name: str) -> Iterator[int]:
    """Of the group and all above it; in a container the group's own name may not be there, its root is."""
    group = Path(place.lstrip("/"))
    for folder in (root / group, *(root / above for above in group.parents)):
        with suppress(OSError, ValueError):  # no such group, or `max`
            yield int((folder / name).read_text("ascii"))
