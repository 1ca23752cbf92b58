"""A family small enough to read: one of each thing that loading has to care about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from ocr_mlx.domain import DecodeParams
from ocr_mlx.model.base import Family, Mode

CONFIG: dict[str, Any] = {"model_type": "tiny", "width": 64, "odd": 48, "vocabulary": 96}


class TinyGraph(nn.Module):
    """An embedding, a picture layer whose layout changes, two layers of width 64, one of a width no group fits."""

    max_positions = 16

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, odd, vocabulary = config["width"], config["odd"], config["vocabulary"]
        self.embed = nn.Embedding(vocabulary, width)
        self.patch = nn.Conv2d(3, width, 2, 2)
        self.layers = [nn.Linear(width, width), nn.Linear(width, odd)]
        self.odd = nn.Linear(odd, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        kept = {name: array for name, array in weights.items() if name != "position_ids"}
        patch = kept.get("patch.weight")
        if patch is not None and patch.shape[-1] != 3:
            kept["patch.weight"] = patch.transpose(0, 2, 3, 1)
        return kept

    def __call__(self, ids: mx.array, pixels: mx.array) -> mx.array:
        hidden = self.embed(ids) + self.patch(pixels).mean(axis=(1, 2))[:, None]
        hidden = self.odd(self.layers[1](nn.gelu(self.layers[0](hidden))))
        return self.head(self.norm(hidden))


def recipe(path: str, mixed: bool) -> bool | Mapping[str, int]:
    """Everything but the picture layer; mixed gives the head eight bits."""
    if path == "head" and mixed:
        return {"bits": 8}
    return path != "patch"


TINY = Family(
    name="tiny",
    model_types=("tiny",),
    checkpoints=("someone/tiny",),
    aliases={"tiny": "someone/tiny"},
    licence="CC-BY-NC-4.0",
    files=("config.json", "tokenizer.json", "generation_config.json", "*.safetensors*", "*.bin*"),
    modes={"plain": Mode(name="plain")},
    default_mode="plain",
    defaults=DecodeParams(),
    build=TinyGraph,  # type: ignore[arg-type]
    processor=lambda folder, config: folder.name,  # type: ignore[arg-type, return-value]
    recipe=recipe,
)


def logits(graph: Any) -> mx.array:
    """What the graph answers to a fixed question."""
    ids = mx.array([[1, 5, 9, 90]])
    pixels = mx.array(np.linspace(-1, 1, 48, dtype=np.float32).reshape(1, 4, 4, 3))
    return graph(ids, pixels)


def checkpoint_tensors(dtype: type[np.generic] = np.float32) -> dict[str, np.ndarray]:
    """Random tensors under the names and in the layout of a PyTorch checkpoint."""
    rng = np.random.default_rng(3)
    shapes = {
        "embed.weight": (96, 64),
        "patch.weight": (64, 3, 2, 2),
        "patch.bias": (64,),
        "layers.0.weight": (64, 64),
        "layers.0.bias": (64,),
        "layers.1.weight": (48, 64),
        "layers.1.bias": (48,),
        "odd.weight": (64, 48),
        "odd.bias": (64,),
        "norm.weight": (64,),
        "norm.bias": (64,),
        "head.weight": (96, 64),
    }
    tensors = {name: rng.normal(0, 0.2, shape).astype(dtype) for name, shape in shapes.items()}
    return tensors | {"position_ids": np.arange(16, dtype=np.int64)}


def write_folder(folder: Path, tensors: Mapping[str, np.ndarray] | None = None, **config: Any) -> Path:
    """A checkpoint folder with one safetensors file."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(checkpoint_tensors() if tensors is None else tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("not a model's file")
    return folder
