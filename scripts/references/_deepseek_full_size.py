"""One page of tiles and a whole view through random weights of both published sizes, under torch and under our graph.

Each checkpoint is written once, in bfloat16 under the published names; then one side runs after the other, each in a
process of its own, in float32: 13.4 GB of weights each. The files go where TMPDIR says.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "scripts")]

import keys  # noqa: E402 - after the path
from tests.families import deepseek_made as made  # noqa: E402
from tests.families import seeded  # noqa: E402

TOKENS, SEED = 32, 5
IMAGE, VOCABULARY = 128815, 129280
VIEW, TILE, GRID = 1024, {1: 640, 2: 768}, {1: (2, 3), 2: (2, 1)}
WEIGHTS = "model-00001-of-000001.safetensors"
_FRUGAL = {"HF_DEACTIVATE_ASYNC_LOAD": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
"""Else transformers, loading with many threads, leaves gigabytes with the allocator."""
_FACTS = _ROOT / "tests" / "families" / "deepseek_ocr"


def compare(python: str, versions: tuple[int, ...] = (1, 2)) -> None:
    """Write the checkpoints, run both sides, print what differs."""
    for version in versions:
        scratch = Path(tempfile.mkdtemp(prefix=f"deepseek-{version}-"))
        try:
            _write(version, scratch)
            _side([sys.executable, str(Path(__file__))], version, scratch)
            _side([python, str(Path(__file__).with_name("_deepseek_graph_ours.py"))], version, scratch)
            _report(version, load_file(scratch / "theirs.safetensors"), load_file(scratch / "ours.safetensors"))
        finally:
            shutil.rmtree(scratch)


def _side(command: list[str], version: int, folder: Path) -> None:
    subprocess.run([*command, str(version), str(folder)], check=True, cwd=_ROOT, env=os.environ | _FRUGAL)


def _report(version: int, theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> None:
    print(f"version {version}, {theirs['prompt'][0]} tokens in the prompt:")
    for name in ("sam", "features", "logits"):
        difference = np.abs(theirs[name] - ours[name]).max()
        print(f"{name} {theirs[name].shape}: largest difference {difference:.2e} of {np.abs(theirs[name]).max():.2f}")
    equal = bool((theirs["greedy"] == ours["greedy"]).all())
    print(f"first {TOKENS} greedy tokens equal: {equal} ({len(set(theirs['greedy'].tolist()))} different)")
    held, peak = ours["bytes"]
    print(f"loading: {held / 1e9:.2f} GB held, process peak {peak / 1e9:.2f} GB, {peak / held:.3f} times")


def _write(version: int, folder: Path) -> None:
    """The checkpoint, tensor by tensor, and the pictures."""
    shutil.copyfile(_FACTS / f"config-{version}.json", folder / "config.json")
    shapes = keys.expand((_FACTS / f"keys-{version}.txt").read_text())
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in _values(shapes):
            torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().tofile(file)
    index = {"metadata": {"total_size": end}, "weight_map": dict.fromkeys(shapes, WEIGHTS)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    case = made.CASES["graph-tiles"]
    columns, rows = GRID[version]
    pictures = {
        "view": seeded.normal("view", (VIEW, VIEW, 3), case.seed),
        "tiles": seeded.normal("tiles", (columns * rows, TILE[version], TILE[version], 3), case.seed),
    }
    pictures = {name: np.clip(values * np.float32(0.5), -1, 1) for name, values in pictures.items()}
    count = _features(version)
    ids = np.concatenate([[0], np.full(count, IMAGE), np.arange(2000, 2008)]).astype(np.int32)
    save_file(pictures | {"ids": ids, "grid": np.array(GRID[version], dtype=np.int32)}, folder / "inputs.safetensors")


def _values(shapes: dict[str, tuple[int, ...]]) -> Iterator[np.ndarray]:
    for name, shape in shapes.items():
        yield made.scaled(name, seeded.normal(name, shape, SEED))


def _features(version: int) -> int:
    (columns, rows), part, whole = GRID[version], TILE[version] // 64, VIEW // 64
    if version == 2:
        return columns * rows * part**2 + whole**2 + 1
    return rows * part * (columns * part + 1) + whole * (whole + 1) + 1


@torch.no_grad()
def theirs(version: int, folder: Path) -> None:
    """Torch's side: adds theirs.safetensors."""
    inputs = load_file(folder / "inputs.safetensors")
    model = _upstream(version, folder)
    stacked = (inputs["view"][None], inputs["tiles"])
    view, tiles = (torch.from_numpy(np.ascontiguousarray(some.transpose(0, 3, 1, 2))) for some in stacked)
    pictures = {"pixel_values": view, "pixel_values_local": tiles, "num_local_patches": [len(tiles)]}
    if version == 1:
        pictures["patches_grid"] = [list(GRID[1])]
    sam = model.model.vision_tower.sam_encoder(view).last_hidden_state
    features = model.model.get_image_features(**pictures, return_dict=True).pooler_output[0]
    ids = torch.from_numpy(inputs["ids"].astype(np.int64))[None]
    found = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=TOKENS,
        pad_token_id=2,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
        **pictures,
    )
    results = {
        "sam": sam[0].permute(1, 2, 0).numpy(),
        "features": features.numpy(),
        "logits": torch.cat(found.logits).numpy(),
        "greedy": found.sequences[0, ids.shape[1] :].numpy().astype(np.int32),
        "prompt": np.array([ids.shape[1]], dtype=np.int32),
    }
    save_file({name: np.ascontiguousarray(value) for name, value in results.items()}, folder / "theirs.safetensors")


def _upstream(version: int, folder: Path) -> torch.nn.Module:
    from transformers import (
        DeepseekOcr2Config,
        DeepseekOcr2ForConditionalGeneration,
        UnlimitedOcrConfig,
        UnlimitedOcrForConditionalGeneration,
    )

    usual = {"max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    if version == 1:
        config, kind = (
            UnlimitedOcrConfig(text_config=usual | {"sliding_window": 8192}),
            UnlimitedOcrForConditionalGeneration,
        )
    else:
        kind = DeepseekOcr2ForConditionalGeneration
        published = json.loads((folder / "config.json").read_text())["language_config"]
        names = ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers")
        names += ("num_attention_heads", "num_key_value_heads", "num_experts_per_tok", "n_group", "topk_group")
        encoder = {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }
        kinds = ["dense", *["sparse"] * 11]
        config = DeepseekOcr2Config(
            text_config=usual | {name: published[name] for name in names} | {"mlp_layer_types": kinds},
            vision_config={"sam_config": {}, "encoder_config": encoder},
        )
    model, info = kind.from_pretrained(
        folder, config=config, dtype=torch.float32, output_loading_info=True, attn_implementation="sdpa"
    )
    unread = [name for name in info["unexpected_keys"] if "patch_embedding" not in name]
    if info["missing_keys"] or info["mismatched_keys"] or unread:
        raise SystemExit(f"version {version}: {info}")
    return model.eval()


if __name__ == "__main__":
    theirs(int(sys.argv[1]), Path(sys.argv[2]))
