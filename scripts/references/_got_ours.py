"""Our side of the full-size comparison: reads the folder that _got_full_size.py wrote, adds prompts.json, then results."""

import json
import sys
from pathlib import Path

import numpy as np

from ocr_mlx.utils.blas import load_blas

load_blas()

import mlx.core as mx  # noqa: E402 - after the BLAS
from PIL import Image  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from ocr_mlx.domain import ModelRef, Page, Prompt  # noqa: E402
from ocr_mlx.model.base import ModelInputs  # noqa: E402
from ocr_mlx.model.families.got_ocr2.family import FAMILY  # noqa: E402
from ocr_mlx.model.families.got_ocr2.processor import read_processor  # noqa: E402
from ocr_mlx.model.load import load_model  # noqa: E402
from tests.families import contract, got_checkpoint  # noqa: E402

TOKENS, WAYS = 32, ("ocr", "crop")


def row(folder: Path, way: str) -> ModelInputs:
    """The page's row as the processor makes it."""
    image = Image.open(folder / f"{way}.png")
    page = Page(index=0, image=image, width=image.width, height=image.height, dpi=None, origin="image")
    processor = read_processor(folder, json.loads((folder / "config.json").read_text()))
    return processor.prepare(page, Prompt(), FAMILY.modes[way]).rows[0]


def prompts(folder: Path) -> None:
    """Add a tokenizer of the published size, and what it makes of the prompts."""
    got_checkpoint.write_ranks(folder, 151_643)
    ids = {way: row(folder, way).token_ids for way in WAYS}
    (folder / "prompts.json").write_text(json.dumps(ids))


def decode(folder: Path) -> None:
    """Load, see, decode."""
    model = load_model(ModelRef(id="full size", path=folder), dtype="float32")
    for way in WAYS:
        inputs = row(folder, way)
        features = contract.numbers(model.graph.encode(mx.array(inputs.pixels)))
        ids, logits = contract.greedy(model.graph, [inputs], TOKENS)
        results = {"pixels": inputs.pixels, "features": features, "logits": logits[0], "greedy": ids[0]}
        found = {name: np.ascontiguousarray(value) for name, value in results.items()}
        save_file(found, folder / f"{way}.safetensors")


{"prompts": prompts, "decode": decode}[sys.argv[2]](Path(sys.argv[1]))
