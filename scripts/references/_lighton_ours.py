"""Our side of the full-size comparison: reads the folder that _lighton_full_size.py wrote, and adds ours.safetensors."""

import sys
from pathlib import Path

import numpy as np

from ocr_mlx.utils.blas import load_blas

load_blas()

import mlx.core as mx  # noqa: E402 - after the BLAS
from PIL import Image  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from ocr_mlx.domain import ModelRef, Page, Prompt  # noqa: E402
from ocr_mlx.model.load import load_model  # noqa: E402
from tests.families import contract  # noqa: E402

TOKENS = 32


def main(folder: Path) -> None:
    """Load, read the page, decode."""
    model = load_model(ModelRef(id="full size", path=folder), dtype="float32")
    image = Image.open(folder / "page.png")
    page = Page(index=0, image=image, width=image.width, height=image.height, dpi=None, origin="image")
    rows = model.processor.prepare(page, Prompt(), model.family.modes["markdown"]).rows
    parts = model.graph.model  # type: ignore[attr-defined]
    patches = parts.vision_encoder(mx.array(rows[0].pixels)[None])
    mx.eval(patches)
    features = contract.numbers(parts.vision_projection(patches))
    ids, logits = contract.greedy(model.graph, rows, TOKENS)
    results = {
        "ids": np.array(rows[0].token_ids),
        "pixels": rows[0].pixels,
        "vision": contract.numbers(patches.reshape(-1, patches.shape[-1])),
        "features": features[0],
        "logits": logits[0],
        "greedy": ids[0],
    }
    save_file({name: np.ascontiguousarray(value) for name, value in results.items()}, folder / "ours.safetensors")


main(Path(sys.argv[1]))
