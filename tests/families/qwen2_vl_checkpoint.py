"""A tiny Qwen2-VL checkpoint in a folder, under any of its namings, with seeded weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from PIL import Image

from ocr_mlx.domain import ModelRef, Page, Prompt
from ocr_mlx.model.base import LoadedModel, Mode, ModelInputs
from ocr_mlx.model.families.qwen2_vl.model import build
from tests.families import qwen2_vl_made as made

GOLDEN = Path(__file__).parent / "qwen2_vl" / "golden"
CASES = tuple(sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir()))
KERNEL = "visual.patch_embed.proj.weight"
Naming = Literal["published", "newer", "mlx"]
_LEVELS: dict[Naming, tuple[tuple[str, str], ...]] = {
    "published": (),
    "newer": (("visual.", "model.visual."), ("model.", "model.language_model.")),
    "mlx": (
        ("visual.", "vision_tower."),
        ("model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ),
}
PLAIN = Mode(name="plain")


def about(case: str) -> dict[str, Any]:
    """The case's rows (sizes of pictures), prompts, limits and seed."""
    found: dict[str, Any] = json.loads((GOLDEN / case / "config.json").read_text())["golden"]
    return found


def config_of(case: str) -> dict[str, Any]:
    """The case's config.json."""
    found: dict[str, Any] = json.loads((GOLDEN / case / "config.json").read_text())
    del found["golden"]
    return found


def golden_of(case: str) -> list[dict[str, np.ndarray[Any, Any]]]:
    """What upstream computed for each row of the case."""
    stored = {name: np.array(array) for name, array in mx.load(str(GOLDEN / case / "golden.safetensors")).items()}
    rows = range(len(about(case)["rows"]))
    return [{name[2:]: array for name, array in stored.items() if name.startswith(f"{row}.")} for row in rows]


def renamed(name: str, naming: Naming) -> str:
    """A published name under another naming."""
    for level, other in _LEVELS[naming]:
        if name.startswith(level):
            return other + name[len(level) :]
    return name


def tensors_of(case: str, naming: Naming = "published") -> dict[str, mx.array]:
    """The weights under that naming and in its layout."""
    shapes = {name: tuple(array.shape) for name, array in tree_flatten(build(config_of(case)).parameters())}
    out, frames, high, wide, channels = shapes[KERNEL]
    shapes[KERNEL] = (out, channels, frames, high, wide)
    tensors = {name: mx.array(array) for name, array in made.weights(shapes.items(), about(case)["seed"]).items()}
    if naming == "mlx":
        tensors[KERNEL] = tensors[KERNEL].transpose(0, 2, 3, 4, 1)
    return {renamed(name, naming): array for name, array in tensors.items()}


def write(case: str, folder: Path, naming: Naming = "published", **extra: mx.array) -> ModelRef:
    """Write the case as a checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(case)))
    tensors = tensors_of(case, naming) | extra
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
    least, most = about(case)["limits"]
    vision = config_of(case)["vision_config"]
    sizes = {"patch_size": vision["patch_size"], "merge_size": vision["spatial_merge_size"]}
    write_companions(folder, {"min_pixels": least, "max_pixels": most} | sizes)
    return ModelRef(id=f"tiny/{case}", path=folder)


def write_companions(folder: Path, settings: Mapping[str, Any], first_mark: int = made.FIRST_MARK) -> None:
    """Tokenizer, processor and generation files."""
    own = {"image_processor_type": "Qwen2VLImageProcessor", "image_mean": [0.48145466, 0.4578275, 0.40821073]}
    (folder / "preprocessor_config.json").write_text(json.dumps(own | dict(settings)))
    ends = [first_mark + 2, first_mark]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "do_sample": True, "top_k": 1}))
    made.tokenizer(first_mark).save(str(folder / "tokenizer.json"))


def page(*sizes: tuple[int, int], name: str = "") -> Page:
    """Pages of these (width, height) for one prompt."""
    first, *others = (Image.fromarray(made.picture(tuple(size), name)) for size in sizes)
    return Page(
        index=0,
        image=first,
        width=first.width,
        height=first.height,
        dpi=None,
        origin="image",
        following=tuple(others),
    )


def row_of(model: LoadedModel, sizes: list[list[int]], prompt: str, name: str = "", mode: Mode = PLAIN) -> ModelInputs:
    """One row through the model's own processor."""
    wanted = page(*(tuple(size) for size in sizes), name=name)  # type: ignore[arg-type]
    (row,) = model.processor.prepare(wanted, Prompt(text=prompt), mode).rows
    return row


def rows_of(case: str, model: LoadedModel) -> list[ModelInputs]:
    """The case's rows."""
    told = about(case)
    return [row_of(model, sizes, prompt) for sizes, prompt in zip(told["rows"], told["prompts"], strict=True)]
