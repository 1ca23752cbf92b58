"""GOT-OCR 2.0 for scripts/bench.py."""

import json
from pathlib import Path
from typing import Any

from scripts.benchmark.checkpoint import write

_FACTS = Path(__file__).resolve().parents[2] / "tests" / "families" / "got_ocr2"
_RANKS = 151_643
_TEXT = {
    "model_type": "qwen2",
    "vocab_size": 151_860,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
_CONFIG = {
    "model_type": "got_ocr2",
    "architectures": ["GotOcr2ForConditionalGeneration"],
    "image_seq_length": 576,
    "image_token_index": 151_859,
    "tie_word_embeddings": True,
    "text_config": _TEXT,
    "vision_config": {"model_type": ""},
}
UNREAD = ("vision_tower", "multi_modal_projector")


def checkpoint(folder: Path, tiny: bool) -> None:
    """The published config and names, or a tiny model."""
    from tests.families import got_checkpoint

    if tiny:
        got_checkpoint.write("pages", folder, "published")
        return
    write(folder, _CONFIG, _FACTS / "keys-published.txt")
    got_checkpoint.write_ranks(folder, _RANKS)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": _RANKS}))


def vision(graph: Any) -> tuple[Any, str]:
    """The tower and the projection."""
    return graph, "encode"


def load(folder: Path) -> Any:
    """Transformers' model."""
    import torch
    from transformers import GotOcr2ForConditionalGeneration

    return GotOcr2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def given(model: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Our prompt, the pictures channels first."""
    import torch

    ids = torch.from_numpy(row["ids"])[None]
    pixels = torch.from_numpy(row["pixels"]).permute(0, 3, 1, 2).contiguous()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def tower(model: Any) -> tuple[Any, str]:
    """The tower and the projection."""
    return model.model, "get_image_features"


def process(folder: Path, image: Any) -> Any:
    """Transformers' picture."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    return GotOcr2ImageProcessorPil(size={"height": 1024, "width": 1024})(image, return_tensors="pt")


def peer(folder: Path) -> Path:
    """The original's config and names, which are the ones that mlx-vlm reads."""
    from scripts.benchmark.vlm import folder_with

    from ocr_mlx.model.families.got_ocr2.names import rename

    config = json.loads((folder / "config.json").read_text())
    flat = {name: value for name, value in config["text_config"].items() if name != "model_type"}
    flat |= {"model_type": "GOT", "im_patch_token": config["image_token_index"], "vision_config": {}}
    return folder_with(folder, flat, rename)


def peer_given(row: dict[str, Any]) -> dict[str, Any]:
    """Our prompt, the pictures as they are: its tower has channels last."""
    import mlx.core as mx

    return {"input_ids": mx.array(row["ids"])[None], "pixel_values": mx.array(row["pixels"]), "mask": None}
