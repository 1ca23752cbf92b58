"""Our side of the full-size comparison: reads the folder that _deepseek_full_size.py wrote, and adds ours.safetensors."""

import resource
import sys
from pathlib import Path

import numpy as np

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT)]

from ocr_mlx.utils.blas import load_blas  # noqa: E402

load_blas()

import mlx.core as mx  # noqa: E402 - after the BLAS
from safetensors.numpy import load_file, save_file  # noqa: E402

from ocr_mlx.domain import ModelRef  # noqa: E402
from ocr_mlx.model.base import ModelInputs  # noqa: E402
from ocr_mlx.model.families.deepseek_ocr.encoder import read_pictures  # noqa: E402
from ocr_mlx.model.load import load_model  # noqa: E402
from tests.families import contract, deepseek_words  # noqa: E402

TOKENS = 32


def main(folder: Path) -> None:
    """Load, read the pictures, decode."""
    deepseek_words.write_tokenizer(folder)
    model = load_model(ModelRef(id="full size", path=folder), dtype="float32")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    inputs = load_file(folder / "inputs.safetensors")
    row = ModelInputs(
        token_ids=tuple(inputs["ids"].tolist()),
        pixels=inputs["view"],
        extras={"tiles": inputs["tiles"], "grid": inputs["grid"]},
        prompt_tokens=len(inputs["ids"]),
    )
    body = model.graph.model  # type: ignore[attr-defined]
    sam = contract.numbers(body.sam_model(mx.array(inputs["view"])[None]))
    features = contract.numbers(read_pictures(body, [row]))
    ids, logits = contract.greedy(model.graph, [row], TOKENS)
    results = {
        "sam": sam[0],
        "features": features[0],
        "logits": logits[0],
        "greedy": ids[0].astype(np.int32),
        "bytes": np.array([model.bytes, peak], dtype=np.float64),
    }
    save_file({name: np.ascontiguousarray(value) for name, value in results.items()}, folder / "ours.safetensors")


main(Path(sys.argv[2]))
