"""Qwen2-VL-2B for scripts/bench.py."""

import json
from pathlib import Path
from typing import Any

from scripts.benchmark.checkpoint import write

_FACTS = Path(__file__).resolve().parents[2] / "tests" / "families" / "qwen2_vl"
_LIMITS = {"min_pixels": 3136, "max_pixels": 28 * 28 * 1280}
_FIRST_MARK = 151_643
UNREAD = ("visual.",)


def checkpoint(folder: Path, tiny: bool) -> None:
    """The published config and names, with the pixel limits of upstream's code; or a tiny model."""
    from tests.families import qwen2_vl_checkpoint

    if tiny:
        qwen2_vl_checkpoint.write(qwen2_vl_checkpoint.CASES[0], folder)
        return
    write(folder, json.loads((_FACTS / "config.json").read_text()), _FACTS / "keys.txt")
    qwen2_vl_checkpoint.write_companions(folder, _LIMITS, _FIRST_MARK)


def vision(graph: Any) -> tuple[Any, str]:
    """The tower and the merger."""
    return graph, "look"


def load(folder: Path) -> Any:
    """Transformers' model."""
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    return Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def given(model: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Our prompt; the picture as patches, four neighbours behind each other, the one frame twice."""
    import numpy as np
    import torch

    vision, pixels, ids = model.config.vision_config, row["pixels"], torch.from_numpy(row["ids"])[None]
    side, merge = vision.patch_size, vision.spatial_merge_size
    high, wide = (size // side for size in pixels.shape[:2])
    cells = pixels.reshape(high // merge, merge, side, wide // merge, merge, side, 3)
    patches = cells.transpose(0, 3, 1, 4, 6, 2, 5).reshape(high * wide, 3, 1, side, side)
    flat = np.repeat(patches, vision.temporal_patch_size, axis=2).reshape(high * wide, -1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == model.config.image_token_id).int(),
        "pixel_values": torch.from_numpy(flat),
        "image_grid_thw": torch.tensor([[1, high, wide]]),
    }


def tower(model: Any) -> tuple[Any, str]:
    """The tower and the merger."""
    return model.model.visual, "forward"


def process(folder: Path, image: Any) -> Any:
    """Transformers' picture, within the folder's limits."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")
