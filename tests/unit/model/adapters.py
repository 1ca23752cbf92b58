"""A LoRA adapter of the tiny family, as PEFT writes one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.model.tiny import TINY, checkpoint_tensors

RANK, ALPHA = 4, 10
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "someone/tiny",
    "r": RANK,
    "lora_alpha": ALPHA,
    "lora_dropout": 0.1,
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "modules_to_save": None,
    "rank_pattern": {},
    "target_modules": ["layers.0", "layers.1", "head"],
    "use_dora": False,
    "use_rslora": False,
}
TARGETS = ("layers.0", "layers.1", "head")


def rename(name: str) -> str:
    """The old names of the tiny family's tensors, and its own."""
    return name.removeprefix("model.").removeprefix("old.")


RENAMING = replace(TINY, rename=rename, bases={"other/tiny-bnb-4bit": "someone/tiny"})


def adapter_tensors(prefix: str = "", middle: str = "") -> dict[str, np.ndarray]:
    """A and B of every target, under PEFT's names."""
    rng = np.random.default_rng(5)
    tensors = {}
    for path in TARGETS:
        outputs, inputs = checkpoint_tensors()[f"{path}.weight"].shape
        for side, shape in (("A", (RANK, inputs)), ("B", (outputs, RANK))):
            name = f"base_model.model.{prefix}{path}.lora_{side}{middle}.weight"
            tensors[name] = rng.normal(0, 0.3, shape).astype(np.float32)
    return tensors


def write_adapter(folder: Path, tensors: Mapping[str, np.ndarray] | None = None, **config: Any) -> Path:
    """An adapter's folder, with what training leaves beside it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(adapter_tensors() if tensors is None else tensors), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    (folder / "training_args.bin").write_bytes(b"a pickle of the trainer's")
    (folder / "README.md").write_text("not a model's file")
    return folder


def merged(scale: float = ALPHA / RANK) -> dict[str, np.ndarray]:
    """The base with the adapter added, computed without the program."""
    tensors, pairs = checkpoint_tensors(), adapter_tensors()
    for path in TARGETS:
        down, up = (pairs[f"base_model.model.{path}.lora_{side}.weight"].astype(np.float64) for side in "AB")
        tensors[f"{path}.weight"] = (tensors[f"{path}.weight"] + scale * (up @ down)).astype(np.float32)
    return tensors
