"""LightOnOCR under transformers: tiny models stage by stage, pictures, prompts."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import LightOnOcrConfig, LightOnOcrForConditionalGeneration

from references import _lighton_full_size as full_size_run
from references import _lighton_inputs as inputs
from tests.families import lighton_made

LEAST_MARGIN = 1e-3
"""Greedy ids are only a fair golden where the best token leads by more than rounding."""
Row = tuple[tuple[int, int], ...]
"""The (height, width) of each picture of a prompt."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tiny model, its prompts, and how many teacher-forced and greedy tokens follow each."""

    name: str
    seed: int
    vision: dict[str, Any]
    text: dict[str, Any]
    rows: tuple[Row, ...]
    top: dict[str, Any] = field(default_factory=dict)
    image_token: int = 290
    merge: int = 2
    tied: bool = True
    forced: int = 8
    greedy: int = 16
    saved: bool = False
    """config.json as transformers writes it, instead of as it was published."""


CASES = (
    # Odd grids lose a row and a column, one picture is a single token, one a strip; two query heads share a key.
    Case(
        name="odd_grids",
        seed=2,
        rows=(((56, 84),), ((70, 98),), ((280, 42),), ((28, 28),)),
        vision={"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4},
        text={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
    ),
    # A head of its own, image token 7, nothing said about tying; two pictures of different sizes in a prompt.
    Case(
        name="untied",
        seed=5,
        rows=(((32, 48), (72, 40)), ((64, 64), (16, 16)), ((16, 160), (24, 24))),
        image_token=7,
        tied=False,
        vision={
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "patch_size": 8,
            "image_size": 160,
        },
        text={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 8,
        },
    ),
    # Squares of nine patches, another theta and epsilon, a key for every query; config.json as transformers saves it.
    Case(
        name="nines",
        seed=8,
        rows=(((42, 60),), ((18, 18),)),
        merge=3,
        saved=True,
        vision={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 6,
            "image_size": 90,
            "rope_theta": 500.0,
        },
        text={
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "rms_norm_eps": 1e-4,
            "rope_theta": 2000.0,
        },
    ),
    # Longer than the cache's first buffer, every patch a token, one key for all queries.
    Case(
        name="long_decode",
        seed=20,
        rows=(((56, 70),), ((70, 28),)),
        merge=1,
        greedy=300,
        vision={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2},
        text={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 16,
        },
    ),
)


def record(out: Path) -> None:
    """Write every golden under `out`."""
    for case in CASES:
        record_case(case, out / case.name)
    inputs.record(out)


def record_case(case: Case, folder: Path) -> None:
    """Run one tiny model and store its config and stages."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model_config(case)
    model = LightOnOcrForConditionalGeneration(config).eval()
    fill(model, case.seed)
    (folder / "config.json").write_text(json.dumps(stored_config(case, config), indent=1) + "\n")
    save_file(run(model, case), folder / "golden.safetensors")


def published_config(case: Case) -> dict[str, Any]:
    """config.json in the words of the published files."""
    head_dim = case.vision["hidden_size"] // case.vision["num_attention_heads"]
    vision = {"model_type": "pixtral", "head_dim": head_dim, "hidden_act": "silu", "num_channels": 3}
    text = {"model_type": "qwen3", "hidden_act": "silu", "vocab_size": 300, "max_position_embeddings": 512}
    name = "image_token_id" if case.tied else "image_token_index"
    return {
        "architectures": ["LightOnOCRForConditionalGeneration"],
        "model_type": "mistral3",
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": case.merge,
        "vision_feature_layer": -1,
        name: case.image_token,
        "text_config": {**text, "rms_norm_eps": 1e-6, "rope_theta": 1000000, **case.text}
        | ({"tie_word_embeddings": True} if case.tied else {}),
        "vision_config": {**vision, "image_size": 280, "patch_size": 14, "rope_theta": 10000, **case.vision},
    }


def model_config(case: Case) -> LightOnOcrConfig:
    """The same for transformers' own class, which does not know the published words."""
    published = published_config(case)
    parts = {name: dict(published[name]) for name in ("text_config", "vision_config")}
    if case.saved:  # as in files that transformers converted, where the decoder's part keeps its class's default
        parts["text_config"].pop("tie_word_embeddings", None)
    for part in parts.values():
        part["rope_parameters"] = {"rope_type": "default", "rope_theta": part.pop("rope_theta")}
    return LightOnOcrConfig(
        **parts,
        image_token_id=case.image_token,
        spatial_merge_size=case.merge,
        tie_word_embeddings=case.tied,
        architectures=["LightOnOcrForConditionalGeneration"],
    )


def stored_config(case: Case, config: LightOnOcrConfig) -> dict[str, Any]:
    """What the test writes as config.json, and the case's seed and pictures beside it."""
    values = json.loads(config.to_json_string()) if case.saved else published_config(case)
    return {**values, "case": {"seed": case.seed, "rows": case.rows}}


def fill(model: torch.nn.Module, seed: int) -> None:
    """Give every parameter its seeded values."""
    shapes = [(name, tuple(values.shape)) for name, values in model.named_parameters()]
    made = lighton_made.weights(shapes, seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            values.copy_(torch.from_numpy(made[name]))


@torch.no_grad()
def run(model: LightOnOcrForConditionalGeneration, case: Case) -> dict[str, np.ndarray]:
    """Every stage: patches and tokens of each picture, then each row's prompt, forced logits and greedy ids."""
    stages: dict[str, np.ndarray] = {}
    number = 0
    for index, sizes in enumerate(case.rows):
        pictures = [lighton_made.pixels(number + i, size, case.seed) for i, size in enumerate(sizes)]
        seen = see(model, pictures, sizes)
        for i in range(len(sizes)):
            stages |= {f"vision.{number + i}": seen[0][i], f"features.{number + i}": seen[1][i]}
        number += len(sizes)
        stages |= {f"{name}.{index}": value for name, value in read(model, case, index, pictures, seen[1]).items()}
    return {name: np.ascontiguousarray(value) for name, value in stages.items()}


def see(
    model: LightOnOcrForConditionalGeneration, pictures: list[np.ndarray], sizes: Row
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each picture's patches [patches, width] and tokens [tokens, width], all read in one pass as upstream does."""
    found = model.get_image_features(**packed(pictures, sizes))
    patch = model.config.vision_config.patch_size
    counts = [(height // patch) * (width // patch) for height, width in sizes]
    patches = found.last_hidden_state[0].split(counts)
    return [part.numpy() for part in patches], [part.numpy() for part in found.pooler_output]


def read(
    model: LightOnOcrForConditionalGeneration,
    case: Case,
    index: int,
    pictures: list[np.ndarray],
    features: list[np.ndarray],
) -> dict[str, np.ndarray]:
    """One prompt: ids, logits of forced tokens, greedy ids."""
    made = lighton_made.tokens(index, 5 + case.forced, case.seed, 300, case.image_token)
    images = [case.image_token] * sum(map(len, features))
    prompt, forced = [*made[:3], *images, *made[3:5]], made[5:]
    given = packed(pictures, case.rows[index])
    ids = torch.tensor([prompt + forced])
    logits = model(input_ids=ids, **given).logits[0, len(prompt) - 1 :]
    start = torch.tensor([prompt])
    model.generation_config.eos_token_id = None
    options = {"do_sample": False, "max_new_tokens": case.greedy, "pad_token_id": 0}
    greedy = model.generate(input_ids=start, attention_mask=torch.ones_like(start), **given, **options)[
        0, len(prompt) :
    ]
    check(model, case, index, prompt, greedy, given)
    return {
        "prompt": np.array(prompt, np.int32),
        "forced": np.array(forced, np.int32),
        "logits": logits.numpy(),
        "greedy": greedy.numpy().astype(np.int32),
    }


def check(
    model: LightOnOcrForConditionalGeneration,
    case: Case,
    index: int,
    prompt: list[int],
    greedy: torch.Tensor,
    given: dict[str, torch.Tensor],
) -> None:
    """Stop where the closest choice was within rounding, or the image token was chosen."""
    ids = greedy.tolist()
    if case.image_token in ids:
        raise SystemExit(f"{case.name}: row {index} writes image tokens; choose another seed")
    logits = model(input_ids=torch.tensor([prompt + ids[:-1]]), **given).logits[0, len(prompt) - 1 :]
    best = logits.topk(2, -1).values
    margin = float((best[:, 0] - best[:, 1]).min())
    print(f"{case.name} row {index}: prompt {len(prompt)}, {len(set(ids))} different ids, margin {margin:.4f}")
    if margin < LEAST_MARGIN:
        raise SystemExit(f"{case.name}: seed {case.seed} leaves a margin of {margin:.5f}; choose another")


def packed(pictures: list[np.ndarray], sizes: Row) -> dict[str, torch.Tensor]:
    """Pictures as upstream's processor hands them over: padded to one size, with the sizes beside them."""
    high, wide = (max(size[axis] for size in sizes) for axis in (0, 1))
    values = torch.zeros(len(pictures), 3, high, wide)
    for place, picture in zip(values, pictures, strict=True):
        place[:, : picture.shape[0], : picture.shape[1]] = torch.from_numpy(picture).permute(2, 0, 1)
    return {"pixel_values": values, "image_sizes": torch.tensor(sizes)}


def full_size(python: str) -> None:
    """Random weights of LightOnOCR-2-1B's size under torch and under our graph, one A4 page, float32; needs 12 GB."""
    full_size_run.compare(python)
