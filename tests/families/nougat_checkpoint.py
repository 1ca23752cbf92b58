"""A tiny Nougat checkpoint in a folder, laid out as Hugging Face does it, with seeded weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from tokenizers import AddedToken, Tokenizer, models
from tokenizers.decoders import Fuse

from ocr_mlx.domain import ModelRef
from ocr_mlx.model.base import ModelInputs
from ocr_mlx.model.families.nougat.model import build
from ocr_mlx.model.families.nougat.windows import relative_index
from tests.families import seeded

GOLDEN = Path(__file__).parent / "nougat" / "golden"
CASES = tuple(sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir()))
KERNEL = "encoder.embeddings.patch_embeddings.projection.weight"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def config_of(case: str) -> dict[str, Any]:
    """The case's config.json, with the seed of its weights under `seed`."""
    found: dict[str, Any] = json.loads((GOLDEN / case / "config.json").read_text())
    return found


def golden_of(case: str) -> dict[str, np.ndarray[Any, Any]]:
    """What upstream computed for the case."""
    return {name: np.array(array) for name, array in mx.load(str(GOLDEN / case / "golden.safetensors")).items()}


def rows_of(case: str, count: int | None = None) -> list[ModelInputs]:
    """The case's pictures as rows; more than the golden has when asked for."""
    config = config_of(case)
    encoder, seed = config["encoder"], config["seed"]
    batch = len(golden_of(case)["tokens"])
    shape = (*encoder["image_size"], encoder["num_channels"])
    pictures = list(seeded.normal("pixels", (batch, *shape), seed))
    pictures += [seeded.normal(f"pixels {extra}", shape, seed) for extra in range(batch, count or batch)]
    return [ModelInputs(token_ids=(0,), pixels=picture, prompt_tokens=1) for picture in pictures]


def tensors_of(case: str) -> dict[str, np.ndarray[Any, Any]]:
    """The weights under upstream's names and in its layouts, index buffers included."""
    config = config_of(case)
    shapes = {name: tuple(array.shape) for name, array in tree_flatten(build(config).parameters())}
    out, high, wide, channels = shapes[KERNEL]
    shapes[KERNEL] = (out, channels, high, wide)
    tensors: dict[str, np.ndarray[Any, Any]] = dict(seeded.weights(shapes.items(), config["seed"]))
    index = relative_index(config["encoder"]["window_size"]).astype(np.int64)
    for name in shapes:
        if name.endswith("relative_position_bias_table"):
            tensors[name.replace("bias_table", "index")] = index
    return tensors


def write(case: str, folder: Path, **changes: Any) -> ModelRef:
    """Write the case as a checkpoint folder. `changes` replace parts of preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in config_of(case).items() if name != "seed"}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: mx.array(array) for name, array in tensors_of(case).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
    channels = config["encoder"]["num_channels"]
    height, width = config["encoder"]["image_size"]
    picture = {
        "image_processor_type": "NougatImageProcessor",
        "image_mean": [0.5] * channels,
        "image_std": [0.25] * channels,
        "size": {"height": height, "width": width},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(picture | changes))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 2}))
    write_tokenizer(folder, config["decoder"]["vocab_size"])
    return ModelRef(id=f"tiny/{case}", path=folder)


def write_tokenizer(folder: Path, size: int, special: tuple[str, ...] = SPECIAL) -> None:
    """A tokenizer.json of so many ids, with truncation and padding on as the published one has them."""
    vocabulary = {name: index for index, name in enumerate((*SPECIAL, *(f" w{i}" for i in range(4, size))))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    tokenizer.decoder = Fuse()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8, pad_id=1, pad_token="<pad>")
    tokenizer.save(str(folder / "tokenizer.json"))


def copy(source: ModelRef, folder: Path) -> Path:
    """A second copy of a checkpoint folder, to be damaged."""
    shutil.copytree(source.path, folder)
    return folder
