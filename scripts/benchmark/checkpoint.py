"""A checkpoint of a published size and naming with random weights, written in bfloat16 without holding it in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scripts import keys

SCALE = 0.02
_BLOCK = 1 << 24


def write(folder: Path, config: Mapping[str, Any], table: Path) -> None:
    """config.json and model.safetensors with the names and shapes of a table of `scripts/keys.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = keys.expand(table.read_text(encoding="utf-8"))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = folder / "model.safetensors.part"
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in _values(shapes):
            values.tofile(file)
    part.rename(folder / "model.safetensors")


def _values(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[NDArray[np.uint16]]:
    """The upper halves of float32 numbers: norms are one, everything else is small and normal."""
    random = np.random.default_rng(0)
    block = _halves(random.standard_normal(_BLOCK, np.float32) * np.float32(SCALE))
    one = _halves(np.ones(1, np.float32))
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        if len(shape) == 1 and name.endswith("weight"):
            yield np.repeat(one, count)
            continue
        start = int(random.integers(_BLOCK))
        for done in range(0, count, _BLOCK):
            yield np.take(block, np.arange(start, start + min(_BLOCK, count - done)), mode="wrap")


def _halves(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (values.view(np.uint32) >> 16).astype(np.uint16)
