"""One page through random weights of nougat-small's size, under transformers and under our graph."""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import DonutSwinConfig, MBartConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel
from transformers.models.nougat.image_processing_pil_nougat import NougatImageProcessorPil

from tests.families import nougat_made

TOKENS, SEED, SUPPRESSED = 32, 7, (2, 3)
_ROOT = Path(__file__).resolve().parents[2]


def compare(fill: Callable[[torch.nn.Module, int], None], python: str) -> None:
    """Write the checkpoint, run both sides, print what differs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        theirs = _upstream(fill, folder)
        run = [python, str(Path(__file__).with_name("_nougat_ours.py")), str(folder)]
        subprocess.run(run, check=True, cwd=_ROOT, env={"PYTHONPATH": str(_ROOT), "PATH": ""})
        ours = load_file(folder / "ours.safetensors")
    for name in ("pixels", "encoder", "logits"):
        difference = np.abs(theirs[name] - ours[name]).max()
        print(f"{name} {theirs[name].shape}: largest difference {difference:.2e} of {np.abs(theirs[name]).max():.2f}")
    equal = bool((theirs["greedy"] == ours["greedy"]).all())
    print(f"first {TOKENS} greedy tokens equal: {equal} ({len(set(theirs['greedy'].tolist()))} different)")
    print(f"seconds, encoder and greedy: transformers {theirs['seconds'].round(2)}, ours {ours['seconds'].round(2)}")


@torch.no_grad()
def _upstream(fill: Callable[[torch.nn.Module, int], None], folder: Path) -> dict[str, np.ndarray]:
    size = json.loads((_ROOT / "tests/families/nougat/config-small.json").read_text())
    encoder, decoder = ({k: v for k, v in size[part].items() if k != "model_type"} for part in ("encoder", "decoder"))
    for misleading in ("num_hidden_layers", "max_length", "add_final_layer_norm"):
        decoder.pop(misleading)
    flags = {"is_decoder": True, "is_encoder_decoder": False, "add_cross_attention": True}
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        DonutSwinConfig(**encoder), MBartConfig(**(decoder | flags))
    )
    model = VisionEncoderDecoderModel(config).eval()
    fill(model, SEED)
    model.save_pretrained(folder)
    processor = NougatImageProcessorPil()
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "NougatImageProcessor"}))
    page = nougat_made.picture("page")
    Image.fromarray(page).save(folder / "page.png")
    values = processor(page.transpose(2, 0, 1), input_data_format="channels_first", return_tensors="pt")["pixel_values"]
    model.generation_config.forced_eos_token_id = None
    start = time.perf_counter()
    encoded = model.encoder(values).last_hidden_state
    middle = time.perf_counter()
    ids = model.generate(
        values,
        decoder_start_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        max_new_tokens=TOKENS,
        do_sample=False,
        bad_words_ids=[[banned] for banned in SUPPRESSED],
    )
    end = time.perf_counter()
    logits = model(pixel_values=values, decoder_input_ids=ids[:, :-1]).logits
    return {
        "pixels": values[0].permute(1, 2, 0).numpy(),
        "encoder": encoded[0].numpy(),
        "logits": logits[0].numpy(),
        "greedy": ids[0, 1:].numpy(),
        "seconds": np.array([middle - start, end - middle]),
    }
