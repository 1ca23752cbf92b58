"""A tiny DeepSeek-OCR checkpoint in a folder, as it is published, with seeded weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ocr_mlx.domain import ModelRef
from ocr_mlx.model.base import ModelInputs
from tests.families import deepseek_made as made

GOLDEN = Path(__file__).parent / "deepseek_ocr" / "golden"
CASES = tuple(made.CASES)
PROCESSOR = {
    "add_special_token": False,
    "candidate_resolutions": [[1024, 1024]],
    "downsample_ratio": 4,
    "ignore_id": -100,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_token": "<image>",
    "mask_prompt": False,
    "normalize": True,
    "pad_token": "<｜▁pad▁｜>",
    "patch_size": 16,
    "processor_class": "DeepseekVLV2Processor",
    "sft_format": "deepseek",
}


def golden_of(case: str) -> dict[str, np.ndarray[Any, Any]]:
    """What upstream computed for the case."""
    return {name: np.array(array) for name, array in mx.load(str(GOLDEN / case / "golden.safetensors")).items()}


def rows_of(case: str, count: int | None = None) -> list[ModelInputs]:
    """The case's pages as rows; more than the golden has when asked for."""
    facts = made.CASES[case]
    count = count or facts.rows
    ids = made.prompts(facts)
    views, tiles = made.views(facts, count), made.tiles(facts, count)
    return [
        ModelInputs(
            token_ids=tuple(ids[row % facts.rows].tolist()),
            pixels=views[row],
            extras={"tiles": tiles[row], "grid": np.array(facts.grid)} if tiles else {},
            prompt_tokens=ids.shape[1],
        )
        for row in range(count)
    ]


def tensors_of(case: str, config: Mapping[str, Any] | None = None) -> dict[str, mx.array]:
    """The weights under the published names and in their layouts."""
    shapes = made.shapes(dict(config or made.config_of(case)))
    return {name: mx.array(array) for name, array in made.weights(shapes, made.CASES[case].seed).items()}


def write(
    case: str,
    folder: Path,
    tokenizer: Callable[[Path], object] | None = None,
    *,
    vocabulary: int = made.VOCABULARY,
    image_token: int = made.IMAGE,
) -> ModelRef:
    """Write the case as a checkpoint folder with the published text layout; `tokenizer` writes the folder's own.

    Another `vocabulary` and `image_token` suit another tokenizer; the goldens hold for the usual ones only.
    """
    config = made.published(made.config_of(case, vocabulary, image_token))
    write_folder(folder, config, tensors_of(case, made.config_of(case, vocabulary, image_token)), tokenizer)
    return ModelRef(id=f"tiny/{case}", path=folder)


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, mx.array],
    tokenizer: Callable[[Path], object] | None = None,
) -> None:
    """Config, weights, processor settings and tokenizer."""
    from tests.families import deepseek_words

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "processor_config.json").write_text(json.dumps(PROCESSOR))
    mx.save_safetensors(str(folder / "model-00001-of-000001.safetensors"), dict(tensors), metadata={"format": "pt"})
    (tokenizer or deepseek_words.write_tokenizer)(folder)
