"""One page through random weights of Qwen2-VL-2B's size, under transformers and under our graph."""

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.families import qwen2_vl_made as made

TOKENS, SEED, PAGE = 32, 7, (1000, 1400)
IDS = {"<|vision_start|>": 151652, "<|vision_end|>": 151653, "<|image_pad|>": 151655}
_ROOT = Path(__file__).resolve().parents[2]
_CONFIG = _ROOT / "tests/families/qwen2_vl/config.json"


def compare(fill: Callable[[torch.nn.Module, int], None], python: str) -> None:
    """Write the checkpoint, run both sides, print what differs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        theirs = _upstream(fill, folder)
        run = [python, str(Path(__file__).with_name("_qwen2_vl_ours.py")), str(folder)]
        subprocess.run(run, check=True, cwd=_ROOT, env={"PYTHONPATH": str(_ROOT), "PATH": ""})
        ours = load_file(folder / "ours.safetensors")
    for name in ("patches", "vision", "merged", "logits"):
        difference = np.abs(theirs[name] - ours[name]).max()
        print(f"{name} {theirs[name].shape}: largest difference {difference:.2e} of {np.abs(theirs[name]).max():.2f}")
    equal = bool((theirs["greedy"] == ours["greedy"]).all())
    print(f"first {TOKENS} greedy tokens equal: {equal} ({len(set(theirs['greedy'].tolist()))} different)")
    print(f"least lead of a chosen token: {theirs['least'][0]:.2e}")


@torch.no_grad()
def _upstream(fill: Callable[[torch.nn.Module, int], None], folder: Path) -> dict[str, np.ndarray]:
    published = json.loads(_CONFIG.read_text())
    values = {name: value for name, value in published.items() if name not in ("architectures", "model_type")}
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**values))
    model = model.to_empty(device="cpu").eval()
    model.tie_weights()
    _buffers(model)
    fill(model, SEED)
    _store(model, folder, published)
    image = Image.fromarray(made.picture(PAGE))
    image.save(folder / "page.png")
    batch = Qwen2VLImageProcessorPil()(image, return_tensors="pt")
    pixels, grids = batch["pixel_values"], batch["image_grid_thw"]
    ids = torch.tensor([_prompt(int(grids.prod()) // 4)])
    (folder / "prompt.json").write_text(json.dumps(ids[0].tolist()))
    seen = model.model.visual(pixels, grid_thw=grids)
    out = model.generate(
        input_ids=ids,
        pixel_values=pixels,
        image_grid_thw=grids,
        mm_token_type_ids=(ids == IDS["<|image_pad|>"]).int(),
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=TOKENS,
        eos_token_id=None,
        pad_token_id=151643,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits = torch.stack(out.logits, 1)[0]
    best = logits.topk(2, -1).values
    return {
        "patches": pixels.numpy(),
        "vision": seen.last_hidden_state.numpy(),
        "merged": seen.pooler_output.numpy(),
        "logits": logits.numpy(),
        "greedy": out.sequences[0, ids.shape[1] :].numpy(),
        "least": (best[:, 0] - best[:, 1]).min()[None].numpy(),
    }


def _buffers(model: torch.nn.Module) -> None:
    """Frequencies are no parameters: made again after the weights' memory."""
    for module in model.modules():
        for name in ("compute_default_rope_parameters", "compute_axial_rope_parameters"):
            if make := getattr(module, name, None):
                module.inv_freq = make(module.config)[0]


def _store(model: torch.nn.Module, folder: Path, published: dict[str, object]) -> None:
    """Save in bfloat16, as published, and go on with the same rounded values."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))
    config = model.config
    model.to(torch.bfloat16).save_pretrained(folder)
    model.to(torch.float32)
    _buffers(model)
    assert config.text_config.hidden_size == published["hidden_size"]
    (folder / "config.json").write_text(json.dumps(published))


def _prompt(count: int) -> list[int]:
    """The template's ids with a made-up text: ids stand for words in no tokenizer that could be had here."""
    start, end, line = 151644, 151645, 198
    words = [(7919 * number) % 100_000 for number in range(48)]
    picture = [IDS["<|vision_start|>"], *[IDS["<|image_pad|>"]] * count, IDS["<|vision_end|>"]]
    return [
        start,
        8948,
        line,
        *words[:6],
        end,
        line,
        start,
        872,
        line,
        *picture,
        *words[6:],
        end,
        line,
        start,
        77091,
        line,
    ]
