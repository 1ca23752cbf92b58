"""Every stage of five tiny models under transformers.

Version 1 runs as `UnlimitedOcrForConditionalGeneration`, which is the same graph while its window holds all tokens, and
version 2 as `DeepseekOcr2ForConditionalGeneration`; both read the published names through transformers' own table.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (
    DeepseekOcr2Config,
    DeepseekOcr2ForConditionalGeneration,
    UnlimitedOcrConfig,
    UnlimitedOcrForConditionalGeneration,
)

from tests.families import deepseek_made as made
from tests.families import seeded

LEAST_MARGIN = 1e-3
"""Greedy ids are only a fair golden where the best token leads by more than rounding."""
MOE_TOKENS = 40
NATIVE = ("graph-small", "graph-queries")
"""Cases whose own names in transformers are kept."""
_CLASSES: dict[int, tuple[Any, Any]] = {
    1: (UnlimitedOcrConfig, UnlimitedOcrForConditionalGeneration),
    2: (DeepseekOcr2Config, DeepseekOcr2ForConditionalGeneration),
}


def record(out: Path) -> None:
    """Write the goldens of all cases."""
    for name, case in made.CASES.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        stages = run(name, case)
        save_file({key: np.ascontiguousarray(value) for key, value in stages.items()}, folder / "golden.safetensors")
    for name in NATIVE:
        names = native_names(tiny(name, made.CASES[name]), weights(name, made.CASES[name]))
        (out / name / "native.json").write_text(json.dumps(names, indent=0) + "\n")


def native_names(model: torch.nn.Module, tensors: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    """Where each of the model's own tensors comes from, found by its values.

    A published name; one of three parts, [name, part]; or experts behind each other, their names in order.
    """
    places: dict[bytes, list[Any]] = {value.tobytes(): [name] for name, value in tensors.items()}
    for name, value in tensors.items():
        if "qkv_proj" in name:
            places |= {part.tobytes(): [name, index] for index, part in enumerate(np.split(value, 3))}
    found = {}
    for name, parameter in model.state_dict().items():
        value = parameter.numpy()
        halves = 2 if name.endswith("gate_up_proj") else 1
        if value.ndim == 3 and ".experts." in name:
            found[name] = [
                places[np.ascontiguousarray(half).tobytes()][0] for one in value for half in np.split(one, halves)
            ]
        else:
            found[name] = places[value.tobytes()]
    return found


def weights(name: str, case: made.Case) -> dict[str, np.ndarray]:
    """The case's tensors by their published names."""
    return made.weights(made.shapes(made.config_of(name)), case.seed)


def tiny(name: str, case: made.Case) -> torch.nn.Module:
    """The case's model, with seeded weights read by their published names."""
    settings, kind = _CLASSES[case.version]
    config = made.config_of(name)
    tensors = {key: torch.from_numpy(value) for key, value in weights(name, case).items()}
    wanted = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    model, info = kind.from_pretrained(
        None,
        config=settings(**wanted),
        state_dict=tensors,
        output_loading_info=True,
        dtype=torch.float32,
        attn_implementation="eager",
    )
    unread = [key for key in info["unexpected_keys"] if "patch_embedding" not in key]
    if info["missing_keys"] or info["mismatched_keys"] or unread:
        raise SystemExit(f"{name}: {info}")
    return model.eval()


@torch.no_grad()
def run(name: str, case: made.Case) -> dict[str, np.ndarray]:
    """All stages: SAM, the encoder behind it, features in order, teacher-forced logits, greedy ids, one MoE layer."""
    model = tiny(name, case)
    pictures = pictures_of(case)
    tower, stages = model.model.vision_tower, {}
    for kind, pixels in (("view", pictures["pixel_values"]), ("tiles", pictures.get("pixel_values_local"))):
        if pixels is not None:
            sam = tower.sam_encoder(pixels[:1]).last_hidden_state
            stages[f"sam.{kind}"] = sam.permute(0, 2, 3, 1).numpy()[..., :: made.EVERY]
            encoded = tower(pixels[:1]).last_hidden_state.numpy()[..., : sam.shape[1]]
            stages[f"encoder.{kind}"] = encoded[..., :: made.EVERY]
    features = model.model.get_image_features(**pictures, return_dict=True).pooler_output
    stages["features"] = torch.stack(list(features)).numpy()[..., :: made.EVERY]
    ids = torch.from_numpy(made.prompts(case))
    stages["logits"] = forced(model, ids, torch.from_numpy(made.forced(case)), pictures)
    return stages | moe(model, case) | {"greedy": greedy(name, model, ids, pictures)}


def forced(model: torch.nn.Module, ids: torch.Tensor, following: torch.Tensor, pictures: dict[str, Any]) -> np.ndarray:
    """Logits behind the prompt and behind each of the ids that follow, which go in one by one."""
    step = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, **pictures)
    found = [step.logits[:, -1]]
    for at in range(following.shape[1]):
        whole = torch.ones((len(ids), ids.shape[1] + at + 1), dtype=torch.int64)
        token = following[:, at : at + 1]
        step = model(input_ids=token, attention_mask=whole, past_key_values=step.past_key_values, use_cache=True)
        found.append(step.logits[:, -1])
    return torch.stack(found, 1).numpy()


def pictures_of(case: made.Case) -> dict[str, Any]:
    """The case's pictures as the models' forward takes them."""
    found: dict[str, Any] = {"pixel_values": _channels_first(np.stack(made.views(case)))}
    tiles = made.tiles(case)
    count = case.grid[0] * case.grid[1]
    if tiles:
        found["pixel_values_local"] = _channels_first(np.concatenate(tiles))
        found["num_local_patches"] = [count] * case.rows
    if case.version == 1:
        found |= {"num_local_patches": [count] * case.rows, "patches_grid": [list(case.grid)] * case.rows}
    return found


def greedy(name: str, model: torch.nn.Module, ids: torch.Tensor, pictures: dict[str, Any]) -> np.ndarray:
    """Upstream's own generate, which may not end; each id must lead the runner-up by more than rounding."""
    found = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=made.GREEDY,
        pad_token_id=2,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
        **pictures,
    )
    best = torch.stack(found.logits, 1).topk(2, -1).values
    margin = float((best[..., 0] - best[..., 1]).min())
    chosen = found.sequences[:, ids.shape[1] :].numpy().astype(np.int32)
    print(f"{name}: {len(set(chosen.flatten().tolist()))} of {chosen.size} ids differ, margin {margin:.4f}")
    if margin < LEAST_MARGIN:
        raise SystemExit(f"{name}: margin {margin:.5f}; choose another seed")
    return chosen


def moe(model: torch.nn.Module, case: made.Case) -> dict[str, np.ndarray]:
    """The last layer's experts alone: who is chosen, with which weight, and what comes out."""
    layer = model.model.language_model.layers[-1].mlp
    x = torch.from_numpy(seeded.normal("moe", (MOE_TOKENS, layer.gate.hidden_dim), case.seed))
    _, weights, ids = layer.gate(x)
    order = ids.argsort(-1)
    return {
        "moe.ids": ids.gather(-1, order).numpy().astype(np.int32),
        "moe.weights": weights.gather(-1, order).numpy(),
        "moe.out": layer(x[None])[0].numpy(),
    }


def _channels_first(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
