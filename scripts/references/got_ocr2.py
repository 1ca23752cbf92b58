"""GOT-OCR2 under transformers: tiny models stage by stage, pictures plain and in tiles, the choice of tiles."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import GotOcr2Config, GotOcr2ForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_all_supported_aspect_ratios,
    get_optimal_tiled_canvas,
)

from references import _got_full_size as full_size_run
from tests.families import got_made

LEAST_MARGIN = 1e-3
"""Greedy ids are only a fair golden where the best token leads by more than rounding."""
MOST_TILES = 6
IMAGE_TOKEN = 599


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tiny model: the two configs, how many rows of how many pictures, and how many greedy tokens.

    `guarded` tokens are generated once more with the n-gram guard of that size.
    """

    name: str
    seed: int
    vision: dict[str, Any]
    text: dict[str, Any]
    rows: int = 1
    pictures: int = 1
    tied: bool = True
    greedy: int = 24
    guard: int = 3
    guarded: int = 40


CASES = (
    # 16x16 patches in windows of 6 (padded to 18), one layer over the whole grid, 16 tokens; two rows.
    Case(
        name="windows",
        seed=11,
        rows=2,
        vision={
            "hidden_size": 48,
            "output_channels": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 256,
            "mlp_dim": 96,
            "window_size": 6,
            "global_attn_indexes": [2],
        },
        text={"vocab_size": 600, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3},
    ),
    # Four tiles, an odd grid (13 -> 7 -> 4), whole-grid layers first and last, shared keys, a head of its own.
    Case(
        name="tiles",
        seed=12,
        pictures=4,
        tied=False,
        vision={
            "hidden_size": 64,
            "output_channels": 24,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 208,
            "mlp_dim": 80,
            "window_size": 5,
            "global_attn_indexes": [0, 3],
        },
        text={
            "vocab_size": 640,
            "hidden_size": 96,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rope_theta": 10000.0,
        },
    ),
    # Five pages in one prompt, three rows, windows larger than the grid, one key head; longer than the cache's buffer.
    Case(
        name="pages",
        seed=13,
        rows=3,
        pictures=5,
        greedy=270,
        vision={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 128,
            "mlp_dim": 64,
            "window_size": 14,
            "global_attn_indexes": [],
        },
        text={
            "vocab_size": 600,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
        },
    ),
)


def record(out: Path) -> None:
    """Write every golden under `out`."""
    for case in CASES:
        record_case(case, out / case.name)
    record_processor(out)
    record_grids(out)


def record_case(case: Case, folder: Path) -> None:
    """Run one tiny model and store its config, the shapes of its tensors, and its stages."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny(case)
    stages = run(model, case)
    save_file({name: np.ascontiguousarray(value) for name, value in stages.items()}, folder / "golden.safetensors")
    config = json.loads(model.config.to_json_string(use_diff=True))
    config |= {"architectures": ["GotOcr2ForConditionalGeneration"]}
    own = {name: getattr(case, name) for name in ("seed", "rows", "pictures", "guard")}
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    lines = [f'  "{name}": {json.dumps(shape)}' for name, shape in shapes.items()]
    table = ",\n".join(lines)
    (folder / "case.json").write_text(json.dumps(own)[:-1] + ', "shapes": {\n' + table + "\n}}\n")


def tiny(case: Case) -> GotOcr2ForConditionalGeneration:
    """The case's model with seeded weights."""
    text = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 640} | case.text
    flags = {"model_type": "qwen2", "tie_word_embeddings": case.tied, "use_sliding_window": False}
    config = GotOcr2Config(
        image_token_index=IMAGE_TOKEN,
        vision_config=case.vision,
        text_config=text | flags,
        tie_word_embeddings=case.tied,
    )
    model = GotOcr2ForConditionalGeneration(config).eval()
    fill(model, case.seed)
    return model


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int) -> None:
    """Give every parameter its seeded weights; a tied pair is one parameter."""
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.from_numpy(got_made.weights({name: tuple(parameter.shape)}, seed)[name]))


@torch.no_grad()
def run(model: GotOcr2ForConditionalGeneration, case: Case) -> dict[str, np.ndarray]:
    """Every stage of one model: tower with its compressor, projection, teacher-forced logits, greedy ids."""
    count, side = case.rows * case.pictures, case.vision["image_size"]
    pixels = torch.from_numpy(got_made.pixels(count, side, case.seed)).permute(0, 3, 1, 2)
    neck = model.model.vision_tower(pixels).last_hidden_state
    projector = model.model.multi_modal_projector
    tower = projector.conv_upsampler2(projector.conv_upsampler1(neck)).permute(0, 2, 3, 1)
    features = model.model.get_image_features(pixels).pooler_output
    places = case.pictures * features.shape[1]
    prompt = [got_made.prompt(IMAGE_TOKEN, places, row, case.seed) for row in range(case.rows)]
    ids = torch.tensor(prompt)
    forced = torch.from_numpy(got_made.forced(IMAGE_TOKEN, case.rows, 10, case.seed))
    logits = model(input_ids=torch.cat([ids, forced], 1), pixel_values=pixels).logits[:, ids.shape[1] - 1 :]
    return {
        "tower": tower.numpy(),
        "features": features.numpy(),
        "forced": forced.numpy().astype(np.int32),
        "logits": logits.numpy(),
        "greedy": greedy(model, ids, pixels, case.name, case.greedy),
        "guarded": greedy(model, ids, pixels, f"{case.name} guarded", case.guarded, no_repeat_ngram_size=case.guard),
    }


def greedy(
    model: GotOcr2ForConditionalGeneration, ids: torch.Tensor, pixels: torch.Tensor, name: str, count: int, **how: Any
) -> np.ndarray:
    """Upstream's own generate, never ending; refuses ids that rounding could change."""
    out = model.generate(
        input_ids=ids,
        pixel_values=pixels,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **how,
    )
    best = torch.stack(out.scores).topk(2, -1).values
    margin = float((best[..., 0] - best[..., 1]).min())
    found = out.sequences[:, ids.shape[1] :].numpy().astype(np.int32)
    print(f"{name}: {found.shape}, {[len(set(row.tolist())) for row in found]} different ids, margin {margin:.4f}")
    if margin < LEAST_MARGIN:
        raise SystemExit(f"{name}: this seed leaves a margin of {margin:.5f}; choose another")
    return found


# --- pictures --------------------------------------------------------------------------------------------------------


def record_processor(out: Path) -> None:
    """Upstream's pixel values for every picture, squashed and in tiles: sums, and a sample of values."""
    stored: dict[str, np.ndarray] = {}
    for name in got_made.SIZES:
        page = Image.fromarray(got_made.picture(name))
        for side in got_made.sides(name):
            processor = GotOcr2ImageProcessorPil(size={"height": side, "width": side})
            for way, options in (("plain", {}), ("crop", {"crop_to_patches": True, "max_patches": MOST_TILES})):
                found = processor(page, return_tensors="np", **options)["pixel_values"]
                pictures = np.asarray(found).transpose(0, 2, 3, 1).astype(np.float32)
                key = f"{name}.{side}.{way}"
                stored[f"{key}.sample"] = np.stack([got_made.sample(np.ascontiguousarray(p)) for p in pictures])
                stored[f"{key}.sums"] = pictures.astype(np.float64).sum((1, 2))
    save_file(stored, out / "processor.safetensors")
    print(f"processor: {len(got_made.SIZES)} pictures, {len(stored) // 2} ways")


def record_grids(out: Path) -> None:
    """The tiles that upstream chooses for many sizes, ties included; the original's order of ratios never differs."""
    widths = (1, 3, 60, 341, 500, 512, 700, 724, 1000, 1024, 1200, 1448, 1792, 2048, 2508, 3000, 3584, 9000)
    sizes = [(width, height) for width in widths for height in widths]
    ties = ((7, 4), (4, 7), (7, 12), (12, 7), (5, 12), (12, 5), (9, 2), (2, 9), (5, 2), (7, 2), (4, 15), (7, 24))
    sizes += [(a * scale, b * scale) for a, b in ties for scale in (3, 100, 200, 300, 400, 500)]
    rows = []
    for width, height in sizes:
        grid = get_optimal_tiled_canvas((height, width), (1024, 1024), 1, MOST_TILES)
        if grid != _original_grid(width, height):
            raise SystemExit(f"{width} x {height}: transformers and the original differ")
        rows.append((width, height, *grid))
    save_file({"grids": np.array(rows, dtype=np.int32)}, out / "grids.safetensors")
    print(f"grids: {len(rows)} sizes, {len({row[2:] for row in rows})} grids")


def _original_grid(width: int, height: int) -> tuple[int, int]:
    """The same choice with equal areas in the order in which the original's set gives them."""
    ratios = sorted(set(get_all_supported_aspect_ratios(1, MOST_TILES)), key=lambda ratio: ratio[0] * ratio[1])
    best, nearest = (1, 1), float("inf")
    for ratio in ratios:
        distance = abs(width / height - ratio[0] / ratio[1])
        if distance < nearest or (distance == nearest and width * height > 0.5 * 1024 * 1024 * ratio[0] * ratio[1]):
            best, nearest = ratio, distance
    return best


# --- full size -------------------------------------------------------------------------------------------------------


def full_size(python: str) -> None:
    """Random weights of the published size under torch and under our graph, float32; needs about 8 GB."""
    full_size_run.compare(fill, python)
