"""How fast this machine reads memory, and how long reading a decoder's weights once would take at that speed."""

from __future__ import annotations

import json
import math
import os
import statistics
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_WIDTH = 4096


def read_speeds(megabytes: int = 512, runs: int = 5) -> dict[str, float]:
    """GB/s of several ways to read a float32 matrix once, each the median of `runs`; only what is read counts.

    mlx must not have been imported without `load_blas` before.
    """
    import mlx.core as mx
    import numpy as np

    rows = max(1, megabytes * 1_000_000 // (4 * _WIDTH))
    matrix = np.ones((rows, _WIDTH), np.float32)
    vector = np.full(_WIDTH, 0.5, np.float32)
    there, row = mx.array(matrix), mx.array(vector)[None]
    mx.eval(there, row)
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        parts = np.array_split(matrix, cores)
        ways: dict[str, Callable[[], object]] = {
            "matrix times vector, numpy": lambda: matrix @ vector,
            "matrix times vector, mlx": lambda: mx.eval(row @ there.T),
            "sums, one thread a core": lambda: list(pool.map(np.sum, parts)),
        }
        return {name: matrix.nbytes / 1e9 / _median(way, runs) for name, way in ways.items()}


def _median(way: Callable[[], object], runs: int) -> float:
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def step_megabytes(folder: Path, unread: tuple[str, ...], experts: str = "") -> float:
    """MB of float32 weights that decoding one token of one row has to read, from the tables of the folder's files.

    `unread` are parts of names of tensors that a step leaves alone (the tower, the projector, keys of the picture). Rows of
    the embedding are looked up, so the table counts only where it is the head too. Of tensors with `experts` in their
    name only the share counts that a token is sent to.
    """
    shapes = {name: shape for file in sorted(folder.glob("*.safetensors")) for name, shape in _shapes(file).items()}
    separate = any("lm_head" in name for name in shapes)
    numbers = 0.0
    for name, shape in shapes.items():
        if any(part in name for part in unread) or ("embed_tokens" in name and separate):
            continue
        numbers += math.prod(shape) * (_active(folder) if experts and experts in name else 1.0)
    return numbers * 4 / 1e6


def step_figures(megabytes: float, speeds: dict[str, float], step: float) -> dict[str, Any]:
    """One decode step of `step` seconds against its weights at the fastest of the speeds."""
    floor = megabytes / 1e3 / max(speeds.values())
    return {
        "step_ms": step * 1e3,
        "step_mb": megabytes,
        "floor_ms": floor * 1e3,
        "times": step / floor,
        "speeds": speeds,
    }


def _active(folder: Path) -> float:
    config = json.loads((folder / "config.json").read_text())
    text = config.get("language_config") or config.get("text_config") or config
    return float(text["num_experts_per_tok"] / text["n_routed_experts"])


def _shapes(file: Path) -> dict[str, list[int]]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, Any] = json.loads(opened.read(length))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
