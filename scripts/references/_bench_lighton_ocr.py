"""LightOnOCR-2-1B for scripts/bench.py."""

import json
from pathlib import Path
from typing import Any

from scripts.benchmark.checkpoint import write

_FACTS = Path(__file__).resolve().parents[2] / "tests" / "families" / "lighton_ocr"
_SPECIAL = {
    "<|endoftext|>": 151_643,
    "<|im_start|>": 151_644,
    "<|im_end|>": 151_645,
    "<|vision_pad|>": 151_654,
    "<|vision_end|>": 151_653,
    "<|image_pad|>": 151_655,
}
_CELL = 28
UNREAD = ("vision_encoder", "vision_tower", "vision_projection", "multi_modal_projector")


def checkpoint(folder: Path, tiny: bool) -> None:
    """The published config and names, or a tiny model."""
    from tests.families import lighton_checkpoint, lighton_made

    if tiny:
        lighton_checkpoint.write(lighton_checkpoint.CASES[0], folder)
        return
    write(folder, json.loads((_FACTS / "config-2-1b.json").read_text()), _FACTS / "keys-2-1b.txt")
    (folder / "chat_template.jinja").write_bytes((_FACTS / "golden" / "lines.jinja").read_bytes())
    lighton_made.write_tokenizer(folder, _SPECIAL, 151_936)


def vision(graph: Any) -> tuple[Any, str]:
    """The tower and the projection."""
    return graph, "see"


def load(folder: Path) -> Any:
    """Transformers' model under its own type of config: the published one says mistral3."""
    import torch
    from transformers import LightOnOcrConfig, LightOnOcrForConditionalGeneration

    told = json.loads((folder / "config.json").read_text())
    tied = told.get("tie_word_embeddings", told["text_config"].get("tie_word_embeddings", True))
    config = LightOnOcrConfig(
        text_config=told["text_config"],
        vision_config=told["vision_config"],
        image_token_id=told["image_token_id"],
        spatial_merge_size=told.get("spatial_merge_size", 2),
        tie_word_embeddings=tied,
    )
    return LightOnOcrForConditionalGeneration.from_pretrained(folder, config=config, dtype=torch.float32)


def given(model: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Our prompt, the picture channels first, and its size."""
    import torch

    ids = torch.from_numpy(row["ids"])[None]
    pixels = torch.from_numpy(row["pixels"]).permute(2, 0, 1)[None].contiguous()
    sizes = torch.tensor([pixels.shape[2:]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "image_sizes": sizes}


def tower(model: Any) -> tuple[Any, str]:
    """The tower and the projection."""
    return model.model, "get_image_features"


def process(folder: Path, image: Any) -> Any:
    """Transformers' picture."""
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    processor = PixtralImageProcessorPil(size={"longest_edge": 1540}, patch_size=_CELL, do_pad=False)
    return processor([image], return_tensors="pt")


def peer(folder: Path) -> Path:
    """As it is: mlx-vlm takes the published config's mistral3 at its word. Norms of queries and keys are in it too."""
    from scripts.benchmark.vlm import folder_with

    config = json.loads((folder / "config.json").read_text())
    config["text_config"].setdefault("use_qk_norm", True)
    return folder_with(folder, config)


def peer_given(row: dict[str, Any]) -> dict[str, Any]:
    """Our prompt, the picture channels first, and its size."""
    import mlx.core as mx

    pixels = mx.array(row["pixels"].transpose(2, 0, 1)[None])
    given = {"input_ids": mx.array(row["ids"])[None], "pixel_values": pixels, "mask": None}
    return given | {"image_sizes": [pixels.shape[2:]]}
