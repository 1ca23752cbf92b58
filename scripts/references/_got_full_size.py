"""A page squashed and a page in tiles through random weights of the published size, under transformers and our graph."""

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers import GotOcr2Config, GotOcr2ForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from tests.families import got_made

TOKENS, SEED = 32, 7
WAYS = {"ocr": {}, "crop": {"crop_to_patches": True, "max_patches": 6}}
_PICTURES = {"ocr": "page", "crop": "half"}
_ROOT = Path(__file__).resolve().parents[2]


def compare(fill: Callable[[torch.nn.Module, int], None], python: str) -> None:
    """Write the checkpoint and both pages, run both sides, print what differs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for way, name in _PICTURES.items():
            Image.fromarray(got_made.picture(name)).save(folder / f"{way}.png")
        model = _checkpoint(fill, folder)
        run = [python, str(Path(__file__).with_name("_got_ours.py")), str(folder)]
        subprocess.run([*run, "prompts"], check=True, cwd=_ROOT, env={"PYTHONPATH": str(_ROOT), "PATH": ""})
        prompts = json.loads((folder / "prompts.json").read_text())
        theirs = {way: _upstream(model, folder / f"{way}.png", way, prompts[way]) for way in WAYS}
        del model
        subprocess.run([*run, "decode"], check=True, cwd=_ROOT, env={"PYTHONPATH": str(_ROOT), "PATH": ""})
        for way in WAYS:
            _report(way, theirs[way], load_file(folder / f"{way}.safetensors"))


def _report(way: str, theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> None:
    for name in ("pixels", "features", "logits"):
        difference = np.abs(theirs[name] - ours[name]).max()
        size = np.abs(theirs[name]).max()
        print(f"{way}: {name} {theirs[name].shape}: largest difference {difference:.2e} of {size:.2f}")
    equal = bool((theirs["greedy"] == ours["greedy"]).all())
    print(f"{way}: first {TOKENS} greedy tokens equal: {equal} ({len(set(theirs['greedy'].tolist()))} different)")


@torch.no_grad()
def _checkpoint(fill: Callable[[torch.nn.Module, int], None], folder: Path) -> GotOcr2ForConditionalGeneration:
    config = GotOcr2Config()
    model = GotOcr2ForConditionalGeneration(config).eval()
    fill(model, SEED)
    tensors = {got_made.published(name): parameter.numpy() for name, parameter in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors")
    values = json.loads(config.to_json_string(use_diff=False)) | {"model_type": "got_ocr2"}
    (folder / "config.json").write_text(json.dumps(values))
    return model


@torch.no_grad()
def _upstream(model: GotOcr2ForConditionalGeneration, path: Path, way: str, prompt: list[int]) -> dict[str, np.ndarray]:
    processor = GotOcr2ImageProcessorPil(size={"height": 1024, "width": 1024})
    values = processor(Image.open(path), return_tensors="pt", **WAYS[way])["pixel_values"]
    ids = torch.tensor([prompt])
    # One picture at a time: the scores of the whole grid take 800 MB each.
    features = torch.cat([model.model.get_image_features(one[None]).pooler_output for one in values])
    embeddings = model.get_input_embeddings()(ids)
    embeddings[ids == model.config.image_token_id] = features.flatten(0, 1)
    found = model.generate(
        inputs_embeds=embeddings,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=TOKENS,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return {
        "pixels": values.permute(0, 2, 3, 1).numpy(),
        "features": features.numpy(),
        "logits": torch.stack(found.logits, 1)[0].numpy(),
        "greedy": found.sequences[0, -TOKENS:].numpy(),
    }
