"""How much memory this process holds, and how it is given back."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from typing import Final

import psutil

from ocr_mlx.model.base import LoadedModel

_FOOTPRINT_WORDS: Final = 10
_FOOTPRINT_WORD: Final = 7
"""Where `ri_phys_footprint` stands among the 64-bit words of `rusage_info_v0`, behind its 16 bytes of UUID."""


def held_bytes() -> int:
    """What the process takes of the machine's memory, and of a device that has memory of its own.

    On a Mac the footprint that Activity Monitor shows, which counts what Metal holds; elsewhere the resident pages. Imports
    mlx; may be called from any thread, and changes nothing.
    """
    if sys.platform == "darwin":
        return _footprint() or _resident()
    return _resident() + _device_bytes()


def empty(model: LoadedModel) -> None:
    """Take the arrays out of the graph: whoever still has a name for the model, as a traceback has, holds no weights."""
    from mlx import nn

    model.kept.clear()
    if isinstance(model.graph, nn.Module):
        for module in model.graph.modules():
            module.clear()


def give_back() -> None:
    """Give what is free back to the system, not only to the allocators' free lists. On the thread that owns the arrays."""
    import mlx.core as mx

    # Every graph that is built draws its first weights, unevaluated: the random state then holds all draws there ever were.
    mx.eval(mx.random.state)
    gc.collect()
    mx.clear_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _device_bytes() -> int:
    """What mlx holds on a device whose memory is not the machine's; a CPU's arrays are resident pages already."""
    import mlx.core as mx

    if mx.default_device() == mx.cpu:
        return 0
    return int(mx.get_active_memory() + mx.get_cache_memory())


def _footprint() -> int:
    """A Mac's `ri_phys_footprint`; 0 where it cannot be asked."""
    ask = getattr(ctypes.CDLL(None), "proc_pid_rusage", None)
    if ask is None:
        return 0

    class Usage(ctypes.Structure):
        _fields_ = (("uuid", ctypes.c_uint8 * 16), ("words", ctypes.c_uint64 * _FOOTPRINT_WORDS))

    usage = Usage()
    return int(usage.words[_FOOTPRINT_WORD]) if ask(os.getpid(), 0, ctypes.byref(usage)) == 0 else 0
