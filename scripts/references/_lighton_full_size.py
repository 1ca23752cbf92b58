"""One A4 page through random weights of LightOnOCR-2-1B's size, under transformers and under our graph."""

import gc
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import LightOnOcrConfig, LightOnOcrForConditionalGeneration
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from tests.families import lighton_made

TOKENS, SEED, CELL = 32, 7, 28
_ROOT = Path(__file__).resolve().parents[2]
_CONFIG = _ROOT / "tests/families/lighton_ocr/config-2-1b.json"


def compare(python: str, scratch: Path | None = None) -> None:
    """Write the checkpoint, run both sides one after the other, print what differs."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        theirs = _upstream(folder)
        gc.collect()
        run = [python, str(Path(__file__).with_name("_lighton_ours.py")), str(folder)]
        subprocess.run(run, check=True, cwd=_ROOT, env={"PYTHONPATH": str(_ROOT), "PATH": ""})
        ours = load_file(folder / "ours.safetensors")
    finally:
        shutil.rmtree(folder)
    print(f"prompt of {len(theirs['ids'])} tokens, equal: {bool((theirs['ids'] == ours['ids']).all())}")
    for name in ("pixels", "vision", "features", "logits"):
        difference = np.abs(theirs[name] - ours[name]).max()
        print(f"{name} {theirs[name].shape}: largest difference {difference:.2e} of {np.abs(theirs[name]).max():.2f}")
    equal = bool((theirs["greedy"] == ours["greedy"]).all())
    print(f"first {TOKENS} greedy tokens equal: {equal} ({len(set(theirs['greedy'].tolist()))} different)")


@torch.no_grad()
def _upstream(folder: Path) -> dict[str, np.ndarray]:
    model = _model(folder)
    lighton_made.picture("page").save(folder / "page.png")
    special = {f"<|{name}|>": id_ for name, id_ in _SPECIAL.items()}
    lighton_made.write_tokenizer(folder, special, 151_936)
    processor = PixtralImageProcessorPil(size={"longest_edge": 1540}, patch_size=CELL, do_pad=False)
    pixels = processor([Image.open(folder / "page.png")], return_tensors="pt")["pixel_values"][0]
    height, width = pixels.shape[1:]
    ids = _prompt(folder, (height // CELL) * (width // CELL))
    given = {"pixel_values": pixels[None], "image_sizes": torch.tensor([[height, width]])}
    seen = model.get_image_features(**given)
    start = torch.tensor([ids])
    model.generation_config.eos_token_id = None
    made = model.generate(
        input_ids=start,
        attention_mask=torch.ones_like(start),
        **given,
        do_sample=False,
        max_new_tokens=TOKENS,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return {
        "ids": np.array(ids),
        "pixels": pixels.permute(1, 2, 0).numpy(),
        "vision": seen.last_hidden_state[0].numpy(),
        "features": seen.pooler_output[0].numpy(),
        "logits": torch.cat(made.logits).numpy(),
        "greedy": made.sequences[0, len(ids) :].numpy(),
    }


_SPECIAL = {
    "endoftext": 151643,
    "im_start": 151644,
    "im_end": 151645,
    "vision_pad": 151654,
    "vision_end": 151653,
    "image_pad": 151655,
}


def _model(folder: Path) -> LightOnOcrForConditionalGeneration:
    """The published config with random weights in bfloat16, stored under the published names; runs in float32."""
    published = json.loads(_CONFIG.read_text())
    (folder / "config.json").write_text(json.dumps(published))
    parts = {name: dict(published[name]) for name in ("text_config", "vision_config")}
    config = LightOnOcrConfig(**parts, image_token_id=published["image_token_id"], tie_word_embeddings=True)
    with torch.device("meta"):
        model = LightOnOcrForConditionalGeneration(config)
    stored = {}
    for name, place in model.named_parameters():
        made = lighton_made.weights([(name, tuple(place.shape))], SEED)[name]
        stored[name] = torch.from_numpy(made).to(torch.bfloat16)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    del stored
    model = LightOnOcrForConditionalGeneration.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="sdpa"
    )
    return model.eval()


def _prompt(folder: Path, image_tokens: int) -> list[int]:
    from transformers import PreTrainedTokenizerFast

    template = (_CONFIG.parent / "golden" / "lines.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), chat_template=template)
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    written = written.replace("<|image_pad|>", "<|image_pad|>" * image_tokens)
    ids: list[int] = tokenizer(written, add_special_tokens=False)["input_ids"]
    return ids
