"""Qwen2-VL under transformers: tiny models stage by stage, and pictures."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from references import _qwen2_vl_full_size as full_size_run
from tests.families import qwen2_vl_made as made
from tests.families import seeded

LEAST_MARGIN = 1e-3
"""Greedy ids are only a fair golden where the best token leads by more than rounding."""
TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{pictures}{text}<|im_end|>\n<|im_start|>assistant\n"
)
LIMITS = (3136, 1_003_520)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tiny model, the pictures (width, height) of each row, and how many teacher-forced and greedy tokens."""

    name: str
    seed: int
    nested: bool
    text: dict[str, Any]
    vision: dict[str, Any]
    tied: bool
    rows: tuple[tuple[tuple[int, int], ...], ...]
    prompts: tuple[str, ...]
    limits: tuple[int, int]
    forced: int = 12
    greedy: int = 40
    top: dict[str, Any] = field(default_factory=dict)


CASES = (
    # The published layout: flat config, tied, two queries a key. Sizes that grow and shrink, a picture of one token.
    Case(
        name="flat",
        seed=13,
        nested=False,
        tied=True,
        text={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 512,
        },
        vision={"depth": 3, "embed_dim": 48, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14, "spatial_merge_size": 2},
        rows=(((200, 120),), ((61, 90),), ((9, 11),)),
        prompts=("Read the page.", "اقرأ النص", "the"),
        limits=(784, 40_000),
    ),
    # The newer layout: nested config, a head of its own, one key for all queries, several pictures in a prompt.
    Case(
        name="pictures",
        seed=13,
        nested=True,
        tied=False,
        text={
            "hidden_size": 96,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]},
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 512,
        },
        vision={"depth": 2, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 4, "patch_size": 8, "spatial_merge_size": 2},
        rows=(((100, 60), (60, 100)), ((64, 64), (64, 64)), ((33, 210), (16, 16), (150, 40))),
        prompts=("one two", "Which?", ""),
        limits=(512, 12_000),
    ),
    # As many keys as queries, groups of nine patches, another activation; longer than the cache's first buffer.
    Case(
        name="long_decode",
        seed=18,
        nested=True,
        tied=False,
        text={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 6]},
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 700,
        },
        vision={
            "depth": 2,
            "embed_dim": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
            "spatial_merge_size": 3,
            "hidden_act": "gelu",
        },
        rows=(((97, 40),), ((40, 140),)),
        prompts=("wide", "tall"),
        limits=(144, 9_000),
        greedy=300,
    ),
)


def record(out: Path) -> None:
    """Write every golden under `out`."""
    for case in CASES:
        record_case(case, out / case.name)
    record_processor(out)


def record_case(case: Case, folder: Path) -> None:
    """Run one tiny model and store its config and stages."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny(case)
    stages: dict[str, np.ndarray] = {}
    for number, (sizes, text) in enumerate(zip(case.rows, case.prompts, strict=True)):
        stages |= {f"{number}.{name}": value for name, value in run(model, case, number, sizes, text).items()}
    save_file({name: np.ascontiguousarray(value) for name, value in stages.items()}, folder / "golden.safetensors")
    about = {"rows": case.rows, "prompts": case.prompts, "limits": case.limits, "seed": case.seed}
    text = json.dumps(config_json(case) | {"golden": about}, indent=1, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n")


def config_json(case: Case) -> dict[str, Any]:
    """The case's config.json in the layout that it is for."""
    vision = case.vision | {"hidden_size": case.text["hidden_size"], "temporal_patch_size": 2}
    text = case.text | {"vocab_size": 300, "hidden_act": "silu", "use_sliding_window": False}
    top = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "image_token_id": made.mark("<|image_pad|>"),
        "video_token_id": made.mark("<|video_pad|>"),
        "vision_start_token_id": made.mark("<|vision_start|>"),
        "vision_end_token_id": made.mark("<|vision_end|>"),
        "tie_word_embeddings": case.tied,
    }
    if case.nested:
        nested = text | {"model_type": "qwen2_vl_text"}
        return top | {"text_config": nested, "vision_config": vision | {"model_type": "qwen2_vl_vision"}}
    ends = {"bos_token_id": made.mark("<|endoftext|>"), "eos_token_id": made.mark("<|im_end|>")}
    return top | ends | text | {"vision_config": vision | {"in_chans": 3, "spatial_patch_size": vision["patch_size"]}}


def tiny(case: Case) -> Qwen2VLForConditionalGeneration:
    """The case's model with seeded weights."""
    values = {name: value for name, value in config_json(case).items() if name not in ("architectures", "model_type")}
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**json.loads(json.dumps(values)))).eval()
    fill(model, case.seed)
    return model


def fill(model: torch.nn.Module, seed: int) -> None:
    """Give every parameter its seeded weights, by its published name; a tied pair is one parameter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            published = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
            values = made.weights([(published, tuple(parameter.shape))], seed)[published]
            parameter.copy_(torch.from_numpy(values))


@torch.no_grad()
def run(
    model: Qwen2VLForConditionalGeneration, case: Case, number: int, sizes: tuple[tuple[int, int], ...], text: str
) -> dict[str, np.ndarray]:
    """Every stage of one row: patches, tower, merger, positions, teacher-forced logits, greedy ids."""
    pictures = [Image.fromarray(made.picture(size)) for size in sizes]
    inputs = prepare(case, pictures, text)
    pixels, grids, ids = inputs["pixel_values"], inputs["image_grid_thw"], inputs["input_ids"]
    seen = model.model.visual(pixels, grid_thw=grids)
    forced = np.abs(seeded.normal(f"forced {number}", (1, case.forced), case.seed) * 1e4).astype(np.int64) % 256
    whole = torch.cat([ids, torch.from_numpy(forced)], 1)
    positions, shift = model.model.get_rope_index(ids, inputs["mm_token_type_ids"], image_grid_thw=grids)
    kinds = (whole == model.config.image_token_id).int()
    logits = model(input_ids=whole, pixel_values=pixels, image_grid_thw=grids, mm_token_type_ids=kinds).logits
    greedy, least = decode(model, inputs, case.greedy)
    count = len(set(greedy.tolist()))
    print(
        f"{case.name}.{number}: {ids.shape[1]} ids, shift {int(shift)}, {count} different of {len(greedy)}, {least:.4f}"
    )
    if least < LEAST_MARGIN:
        raise SystemExit(f"{case.name}: seed {case.seed} leaves a margin of {least:.5f}; choose another")
    return {
        "ids": ids[0].numpy().astype(np.int32),
        "grids": grids.numpy().astype(np.int32),
        "patches": made.sample(pixels.numpy(), 1500),
        "vision": made.sample(seen.last_hidden_state.numpy(), 4000),
        "merged": seen.pooler_output.numpy(),
        "positions": positions[:, 0].numpy().astype(np.int32),
        "shift": shift[0].numpy().astype(np.int32),
        "forced": forced[0].astype(np.int32),
        "logits": logits[0, ids.shape[1] - 1 :].numpy(),
        "greedy": greedy.numpy().astype(np.int32),
    }


def prepare(case: Case, pictures: list[Image.Image], text: str) -> dict[str, torch.Tensor]:
    """What upstream's processor hands to the model: the template, its picture tokens as many as there are features."""
    least, most = case.limits
    sizes = {"patch_size": case.vision["patch_size"], "merge_size": case.vision["spatial_merge_size"]}
    processor = Qwen2VLImageProcessorPil(min_pixels=least, max_pixels=most, temporal_patch_size=2, **sizes)
    batch = processor(pictures, return_tensors="pt")
    counts = batch["image_grid_thw"].prod(-1) // sizes["merge_size"] ** 2
    shown = "".join(f"<|vision_start|>{'<|image_pad|>' * int(count)}<|vision_end|>" for count in counts)
    ids = torch.tensor([made.tokenizer().encode(TEMPLATE.format(pictures=shown, text=text)).ids])
    kinds = (ids == made.mark("<|image_pad|>")).int()
    return {**batch, "input_ids": ids, "mm_token_type_ids": kinds, "attention_mask": torch.ones_like(ids)}


def decode(
    model: Qwen2VLForConditionalGeneration, inputs: dict[str, torch.Tensor], count: int
) -> tuple[torch.Tensor, float]:
    """Upstream's own generate: greedy ids without the prompt, and the least lead of a chosen token."""
    model.model.rope_deltas = None
    made_ = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.stack(made_.logits, 1)[0].topk(2, -1).values
    return made_.sequences[0, inputs["input_ids"].shape[1] :], float((best[:, 0] - best[:, 1]).min())


# --- pictures --------------------------------------------------------------------------------------------------------


def record_processor(out: Path) -> None:
    """Upstream's patches for every picture: their grid, a sample of them, and a checksum of the grey levels."""
    processor = Qwen2VLImageProcessorPil(min_pixels=LIMITS[0], max_pixels=LIMITS[1])
    stored: dict[str, np.ndarray] = {}
    for name, size in made.SIZES.items():
        image = Image.fromarray(made.picture(size, name))
        batch = processor(image.convert("L") if name == "grey" else image, return_tensors="np")
        (_, high, wide), patches = batch["image_grid_thw"][0], np.asarray(batch["pixel_values"], dtype=np.float32)
        frames = patches.reshape(high // 2, wide // 2, 2, 2, 3, 2, 14, 14).transpose(5, 0, 2, 6, 1, 3, 7, 4)
        assert (frames[0] == frames[1]).all()
        stored[f"{name}.size"] = np.array([high * 14, wide * 14], dtype=np.int32)
        stored[f"{name}.sample"] = made.sample(patches)
        picture = np.ascontiguousarray(frames[0]).reshape(high * 14, wide * 14, 3)
        stored[f"{name}.checksum"] = np.array([made.checksum(picture)], dtype=np.uint32)
    save_file(stored, out / "processor.safetensors")
    print(f"processor: {len(made.SIZES)} pictures")


# --- full size -------------------------------------------------------------------------------------------------------


def full_size(python: str) -> None:
    """Random weights of Qwen2-VL-2B's shapes under torch and under our graph, one page, float32; needs 12 GB."""
    full_size_run.compare(fill, python)
