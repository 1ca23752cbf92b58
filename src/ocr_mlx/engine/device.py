"""What this machine computes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """`name` as in `cpu` or `gpu`; `memory` in bytes that it works best within, None where it does not say."""

    name: str
    detail: str
    memory: int | None


def default_device() -> Device:
    """The device that arrays live on. Imports mlx: load a BLAS first."""
    import mlx.core as mx

    device = mx.default_device()
    info = mx.device_info(device) if hasattr(mx, "device_info") else {}
    memory = info.get("max_recommended_working_set_size") or info.get("memory_size")
    return Device(
        name="cpu" if device == mx.cpu else "gpu",
        detail=str(info.get("device_name") or info.get("architecture") or ""),
        memory=int(memory) if memory else None,
    )
