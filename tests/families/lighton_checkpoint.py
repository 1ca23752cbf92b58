"""A tiny LightOnOCR checkpoint in a folder, laid out as Hugging Face does it, with seeded weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ocr_mlx.domain import ModelRef
from ocr_mlx.model.base import ModelInputs
from ocr_mlx.model.families.lighton_ocr.model import KERNEL, build
from tests.families import lighton_made

GOLDEN = Path(__file__).parent / "lighton_ocr" / "golden"
CASES = tuple(sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir()))
Tensors = dict[str, np.ndarray[Any, Any]]


def config_of(case: str) -> dict[str, Any]:
    """The case's config.json, with its seed and its rows' picture sizes under `case`."""
    found: dict[str, Any] = json.loads((GOLDEN / case / "config.json").read_text())
    return found


def golden_of(case: str) -> Tensors:
    """What upstream computed for the case."""
    return {name: np.array(array) for name, array in mx.load(str(GOLDEN / case / "golden.safetensors")).items()}


def pictures_of(case: str) -> list[list[np.ndarray[Any, Any]]]:
    """The pictures of each of the case's rows."""
    made = config_of(case)["case"]
    numbers = iter(range(sum(map(len, made["rows"]))))
    return [[lighton_made.pixels(next(numbers), tuple(size), made["seed"]) for size in row] for row in made["rows"]]


def row(prompt: list[int], pictures: list[np.ndarray[Any, Any]]) -> ModelInputs:
    """One row for the graph."""
    first, *more = pictures
    extras = {f"picture_{number:04d}": picture for number, picture in enumerate(more, start=2)}
    return ModelInputs(token_ids=tuple(prompt), pixels=first, extras=extras, prompt_tokens=len(prompt))


def rows_of(case: str) -> list[ModelInputs]:
    """The case's rows, each of a shape of its own."""
    golden = golden_of(case)
    return [row(golden[f"prompt.{i}"].tolist(), pictures) for i, pictures in enumerate(pictures_of(case))]


def alike(case: str, count: int) -> list[ModelInputs]:
    """Rows of one shape: the case's first, and others that differ from it in pixels and words."""
    golden, config = golden_of(case), config_of(case)
    prompt, pictures, image = golden["prompt.0"].tolist(), pictures_of(case)[0], token_of(config)
    made = [row(prompt, pictures)]
    for number in range(1, count):
        words = iter(lighton_made.tokens(90 + number, len(prompt), config["case"]["seed"], 250, image))
        other = [image if id_ == image else next(words) for id_ in prompt]
        seed = config["case"]["seed"] + 100 * number
        made.append(row(other, [lighton_made.pixels(i, p.shape[:2], seed) for i, p in enumerate(pictures)]))
    return made


def token_of(config: dict[str, Any]) -> int:
    """The image token."""
    return int(config.get("image_token_id", config.get("image_token_index", -1)))


def tensors_of(case: str) -> Tensors:
    """The weights under the published names and in the published layouts."""
    config = config_of(case)
    shapes = {name: tuple(array.shape) for name, array in tree_flatten(build(config).parameters())}
    out, high, wide, channels = shapes[KERNEL]
    shapes[KERNEL] = (out, channels, high, wide)
    return dict(lighton_made.weights(shapes.items(), config["case"]["seed"]))


def write(case: str, folder: Path, *, tensors: Tensors | None = None, **changes: Any) -> ModelRef:
    """Write the case as a checkpoint folder. `changes` replace parts of processor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in config_of(case).items() if name != "case"}
    (folder / "config.json").write_text(json.dumps(config))
    arrays = {name: mx.array(array) for name, array in (tensors or tensors_of(case)).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "pt"})
    joint = {
        "processor_class": "PixtralProcessor",
        "image_processor": {
            "image_processor_type": "PixtralImageProcessorFast",
            "patch_size": config["vision_config"]["patch_size"],
            "resample": 3,
            "size": {"longest_edge": config["vision_config"]["image_size"]},
        },
        "patch_size": config["vision_config"]["patch_size"],
        "spatial_merge_size": config["spatial_merge_size"],
    }
    (folder / "processor_config.json").write_text(json.dumps(joint | changes))
    special = lighton_made.PRUNED if token_of(config) == 7 else lighton_made.QWEN
    ends = [special["<|im_end|>"], special["<|endoftext|>"]]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "temperature": 0.2}))
    template = "one_line" if special is lighton_made.PRUNED else "lines"
    (folder / "chat_template.jinja").write_bytes((GOLDEN / f"{template}.jinja").read_bytes())
    lighton_made.write_tokenizer(folder, special)
    return ModelRef(id=f"tiny/{case}", path=folder)
