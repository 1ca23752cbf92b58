"""Our side of the full-size comparison: reads the folder that _nougat_full_size.py wrote, and adds ours.safetensors."""

import sys
import time
from pathlib import Path

import numpy as np

from ocr_mlx.utils.blas import load_blas

load_blas()

import mlx.core as mx  # noqa: E402 - after the BLAS
from PIL import Image  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from ocr_mlx.domain import ModelRef, Page, Prompt  # noqa: E402
from ocr_mlx.model.load import load_model  # noqa: E402
from tests.families import contract, nougat_checkpoint  # noqa: E402

TOKENS, SUPPRESSED = 32, (2, 3)


def main(folder: Path) -> None:
    """Load, read the page, decode."""
    nougat_checkpoint.write_tokenizer(folder, 50_000)
    model = load_model(ModelRef(id="full size", path=folder), dtype="float32")
    image = Image.open(folder / "page.png")
    page = Page(index=0, image=image, width=image.width, height=image.height, dpi=None, origin="image")
    rows = model.processor.prepare(page, Prompt(), model.family.modes["markdown"]).rows
    pixels = rows[0].pixels
    start = time.perf_counter()
    encoded = contract.numbers(model.graph.encode(mx.array(pixels)[None]))
    middle = time.perf_counter()
    ids, logits = contract.greedy(model.graph, rows, TOKENS, SUPPRESSED)
    seconds = np.array([middle - start, time.perf_counter() - middle])
    results = {"pixels": pixels, "encoder": encoded[0], "logits": logits[0], "greedy": ids[0], "seconds": seconds}
    save_file({name: np.ascontiguousarray(value) for name, value in results.items()}, folder / "ours.safetensors")


main(Path(sys.argv[1]))
