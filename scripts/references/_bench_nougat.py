"""Nougat-small for scripts/bench.py."""

import json
from pathlib import Path
from typing import Any

from scripts.benchmark.checkpoint import write
from scripts.benchmark.nougat import word_tokenizer

_FACTS = Path(__file__).resolve().parents[2] / "tests" / "families" / "nougat"
_PICTURE = {"image_processor_type": "NougatImageProcessor", "size": {"height": 896, "width": 672}}
UNREAD = ("encoder.", "embed_positions", "encoder_attn.k_proj", "encoder_attn.v_proj")


def checkpoint(folder: Path, tiny: bool) -> None:
    """The published config and names, or a tiny model."""
    if tiny:
        from tests.families import nougat_checkpoint

        nougat_checkpoint.write("odd_grids", folder)
        return
    config = json.loads((_FACTS / "config-small.json").read_text())
    write(folder, config, _FACTS / "keys-small.txt")
    (folder / "preprocessor_config.json").write_text(json.dumps(_PICTURE))
    word_tokenizer(config["decoder"]["vocab_size"]).save(str(folder / "tokenizer.json"))


def vision(graph: Any) -> tuple[Any, str]:
    """The encoder and the projection."""
    return graph, "encode"


def load(folder: Path) -> Any:
    """Transformers' model."""
    import torch
    from transformers import VisionEncoderDecoderModel

    return VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.float32)


def given(model: Any, row: dict[str, Any]) -> dict[str, Any]:
    """The picture, channels first."""
    import torch

    start = {"decoder_start_token_id": 0, "bos_token_id": 0}
    return {"pixel_values": torch.from_numpy(row["pixels"]).permute(2, 0, 1)[None].contiguous(), **start}


def tower(model: Any) -> tuple[Any, str]:
    """The encoder."""
    return model.encoder, "forward"


def process(folder: Path, image: Any) -> Any:
    """Transformers' picture."""
    from transformers.models.nougat.image_processing_pil_nougat import NougatImageProcessorPil

    return NougatImageProcessorPil()(image, return_tensors="pt")
