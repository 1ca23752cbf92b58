"""DeepSeek-OCR (the first) for scripts/bench.py."""

import json
from pathlib import Path
from typing import Any

from scripts.benchmark.checkpoint import write

_FACTS = Path(__file__).resolve().parents[2] / "tests" / "families" / "deepseek_ocr"
_TINY = "graph-tiles"
_PICTURE = 128_815
UNREAD = ("sam_model", "vision_model", "projector", "image_newline", "view_seperator")
EXPERTS = ".experts."


def checkpoint(folder: Path, tiny: bool) -> None:
    """The published config and names, or a tiny model."""
    from tests.families import deepseek_checkpoint, deepseek_words

    if tiny:
        deepseek_checkpoint.write(_TINY, folder)
        config = json.loads((folder / "config.json").read_text())
        config["language_config"]["max_position_embeddings"] = 8192  # a whole page takes more than its tests
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tiny").touch()
        return
    write(folder, json.loads((_FACTS / "config-1.json").read_text()), _FACTS / "keys-1.txt")
    (folder / "processor_config.json").write_text(json.dumps(deepseek_checkpoint.PROCESSOR))
    deepseek_words.write_tokenizer(folder)


def vision(graph: Any) -> tuple[Any, str]:
    """The whole view and the tiles through both towers and the projection."""
    from ocr_mlx.model.families.deepseek_ocr import model

    return model, "read_pictures"


def load(folder: Path) -> Any:
    """Transformers' model of the same graph, as the comparison at full size makes it."""
    from references import _deepseek_full_size, _deepseek_graph
    from tests.families import deepseek_made

    if (folder / "tiny").exists():
        return _deepseek_graph.tiny(_TINY, deepseek_made.CASES[_TINY])
    return _deepseek_full_size._upstream(1, folder)


def given(model: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Our prompt, the view and the tiles channels first."""
    import torch

    ids = torch.from_numpy(row["ids"])[None]
    view = torch.from_numpy(row["pixels"])[None].permute(0, 3, 1, 2).contiguous()
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": view}
    grid = row["grid"].tolist() if "grid" in row else [0, 0]
    if "tiles" in row:
        found["pixel_values_local"] = torch.from_numpy(row["tiles"]).permute(0, 3, 1, 2).contiguous()
    return found | {"num_local_patches": [grid[0] * grid[1]], "patches_grid": [grid]}


def tower(model: Any) -> tuple[Any, str]:
    """Both towers and the projection."""
    return model.model, "get_image_features"


def peer(folder: Path) -> Path:
    """With the type of model that mlx-vlm's conversions have."""
    from scripts.benchmark.vlm import folder_with

    return folder_with(folder, json.loads((folder / "config.json").read_text()) | {"model_type": "deepseekocr"})


def peer_given(row: dict[str, Any]) -> dict[str, Any]:
    """Our prompt, the tiles and the view channels first, and which tokens are the picture."""
    import mlx.core as mx

    view = row["pixels"].transpose(2, 0, 1)[None]
    tiles = row["tiles"].transpose(0, 3, 1, 2) if "tiles" in row else view * 0
    grid = row["grid"].tolist() if "grid" in row else [1, 1]
    given = {"input_ids": mx.array(row["ids"])[None], "pixel_values": [mx.array(tiles), mx.array(view)], "mask": None}
    return given | {"images_spatial_crop": mx.array([grid]), "images_seq_mask": row["ids"][None] == _PICTURE}
