"""Our side of the full-size comparison: reads the folder that _qwen2_vl_full_size.py wrote, and adds ours.safetensors."""

import json
import sys
from pathlib import Path

import numpy as np

from ocr_mlx.utils.blas import load_blas

load_blas()

import mlx.core as mx  # noqa: E402 - after the BLAS
from PIL import Image  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from ocr_mlx.domain import ModelRef  # noqa: E402
from ocr_mlx.model.base import ModelInputs  # noqa: E402
from ocr_mlx.model.families.qwen2_vl.config import Qwen2VLConfig  # noqa: E402
from ocr_mlx.model.families.qwen2_vl.picture import PictureSettings, picture_pixels  # noqa: E402
from ocr_mlx.model.families.qwen2_vl.vision import merge_order  # noqa: E402
from ocr_mlx.model.load import load_model  # noqa: E402
from tests.families import contract, qwen2_vl_checkpoint  # noqa: E402

TOKENS = 32
LIMITS = {"min_pixels": 3136, "max_pixels": 28 * 28 * 1280}


def main(folder: Path) -> None:
    """Load, read the page, decode."""
    qwen2_vl_checkpoint.write_companions(folder, LIMITS, first_mark=151_643)
    model = load_model(ModelRef(id="full size", path=folder), dtype="float32")
    config = Qwen2VLConfig.read(json.loads((folder / "config.json").read_text()))
    pixels = picture_pixels(Image.open(folder / "page.png"), PictureSettings.read(LIMITS, config.vision))
    ids = tuple(json.loads((folder / "prompt.json").read_text()))
    row = ModelInputs(token_ids=ids, pixels=pixels, prompt_tokens=len(ids))
    tower = model.graph.visual  # type: ignore[attr-defined]
    patches = np.array(merge_order(mx.array(pixels)[None], 14, 2))[0].transpose(0, 3, 1, 2)
    vision = tower.features(mx.array(pixels)[None])
    greedy, logits = contract.greedy(model.graph, [row], TOKENS)
    results = {
        "patches": np.repeat(patches[:, :, None], 2, axis=2).reshape(len(patches), -1),
        "vision": contract.numbers(vision)[0],
        "merged": contract.numbers(tower.merger(vision))[0],
        "logits": logits[0],
        "greedy": greedy[0],
    }
    save_file({name: np.ascontiguousarray(value) for name, value in results.items()}, folder / "ours.safetensors")


main(Path(sys.argv[1]))
