"""A tiny GOT-OCR2 checkpoint in a folder under any of the four namings, with seeded weights."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ocr_mlx.domain import ModelRef
from ocr_mlx.model.base import ModelInputs
from tests.families import got_made

GOLDEN = Path(__file__).parent / "got_ocr2" / "golden"
CASES = ("pages", "tiles", "windows")
LETTERS = "etaoinshrdlu OCR:wfmg"
Tensors = dict[str, np.ndarray[Any, Any]]


def case_of(case: str) -> dict[str, Any]:
    """The case's seed, rows, pictures a row, and the shapes of its tensors under transformers' names."""
    found: dict[str, Any] = json.loads((GOLDEN / case / "case.json").read_text())
    return found


def config_of(case: str) -> dict[str, Any]:
    """The case's config.json, as transformers writes it."""
    found: dict[str, Any] = json.loads((GOLDEN / case / "config.json").read_text())
    return found


def golden_of(case: str) -> Tensors:
    """What upstream computed for the case."""
    return {name: np.array(array) for name, array in mx.load(str(GOLDEN / case / "golden.safetensors")).items()}


def rows_of(case: str, count: int | None = None) -> list[ModelInputs]:
    """The case's rows; more than the golden has when asked for."""
    own, config = case_of(case), config_of(case)
    rows, pictures, seed, token = own["rows"], own["pictures"], own["seed"], config["image_token_index"]
    side = config["vision_config"]["image_size"]
    stacks = list(got_made.pixels(rows * pictures, side, seed).reshape(rows, pictures, side, side, 3))
    stacks += [got_made.pixels(pictures, side, seed + extra) for extra in range(rows + 1, (count or rows) + 1)]
    grid = side // 16
    places = pictures * (-(-grid // 4)) ** 2
    prompts = [tuple(got_made.prompt(token, places, row, seed)) for row in range(len(stacks))]
    return [
        ModelInputs(token_ids=ids, pixels=stack, prompt_tokens=len(ids))
        for ids, stack in zip(prompts, stacks, strict=True)
    ]


def tensors_of(case: str) -> Tensors:
    """The weights under transformers 5's names, in torch's layouts."""
    own = case_of(case)
    shapes = {name: tuple(shape) for name, shape in own["shapes"].items()}
    return dict(got_made.weights(shapes, own["seed"]))


def _original(case: str, config: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """One level of config without the vision tower, and a head that repeats the embeddings."""
    named = {got_made.original(name): array for name, array in tensors.items()}
    named.setdefault("lm_head.weight", named["model.embed_tokens.weight"])
    return _flat(config), named


def _community(case: str, config: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """The original's config, kernels channels last, no head."""
    turned = {
        name: array.transpose(0, 2, 3, 1) if array.ndim == 4 and "pos_embed" not in name else array
        for name, array in tensors.items()
    }
    return _flat(config), {got_made.community(name): array for name, array in turned.items()}


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    text = {name: value for name, value in config["text_config"].items() if name != "rope_parameters"}
    text["rope_theta"] = config["text_config"]["rope_parameters"]["rope_theta"]
    own = {
        "model_type": "GOT",
        "architectures": ["GOTQwenForCausalLM"],
        "im_patch_token": config["image_token_index"],
        "tie_word_embeddings": config["tie_word_embeddings"],
        # The original has no such section: its tower has one size. Tiny ones need it.
        "vision_config": config["vision_config"],
    }
    return text | own


def _published(case: str, config: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    return config, {got_made.published(name): array for name, array in tensors.items()}


def _current(case: str, config: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    return config, tensors


NAMINGS: dict[str, Callable[[str, dict[str, Any], Tensors], tuple[dict[str, Any], Tensors]]] = {
    "original": _original,
    "published": _published,
    "transformers": _current,
    "community": _community,
}


def write(case: str, folder: Path, naming: str = "original") -> ModelRef:
    """Write the case as a checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config, tensors = NAMINGS[naming](case, config_of(case), tensors_of(case))
    (folder / "config.json").write_text(json.dumps(config))
    arrays = {name: mx.array(np.ascontiguousarray(array)) for name, array in tensors.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "pt"})
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": first_special(case)}))
    write_ranks(folder, first_special(case))
    return ModelRef(id=f"tiny/{case}", path=folder)


def first_special(case: str) -> int:
    """The id of <|endoftext|>, which is also the number of ordinary ids."""
    token: int = config_of(case)["image_token_index"]
    return token - got_made.SPECIAL_COUNT + 1


def write_ranks(folder: Path, count: int, end: bytes = b"\n") -> None:
    """A `qwen.tiktoken` of so many tokens: all bytes, then words that grow letter by letter."""
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += itertools.islice(_words(), count - len(tokens))
    lines = (base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens))
    (folder / "qwen.tiktoken").write_bytes(end.join(lines) + end)


def _words() -> Iterator[bytes]:
    for length in itertools.count(2):
        for letters in itertools.product(LETTERS, repeat=length):
            yield "".join(letters).encode()
