"""Upstream's pixels for pictures of many sizes, and its ids for prompts under the published chat templates."""

import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast
from transformers.models.pixtral.image_processing_pil_pixtral import (
    PixtralImageProcessorPil,
    get_resize_output_image_size,
)

from tests.families import lighton_made

MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
LONGEST, CELL, PATCH = 1540, 28, 14
"""PixtralProcessor rounds sides to whole cells, LightOnOcrProcessor to whole patches."""
TEXTS = ("", "grounding", "What is <here>?", "naïve café\nzwei Zeilen")
SYSTEMS = ("", "Be brief.")


def record(out: Path) -> None:
    """Write `processor.safetensors` and `prompts.json` under `out`; the templates lie there already."""
    record_pixels(out)
    record_prompts(out)


def record_pixels(out: Path) -> None:
    """Size, checksum and sample of every picture; sizes of many more, under both roundings."""
    stored: dict[str, np.ndarray] = {}
    for name in lighton_made.SIZES:
        values = upstream(name)
        stored[f"{name}.size"] = np.array(values.shape[:2], np.int32)
        stored[f"{name}.digest"] = np.array([lighton_made.digest(values, MEAN, STD)], np.uint32)
        stored[f"{name}.sample"] = lighton_made.sample(values)
    sizes = lighton_made.sizes()
    stored["sizes"] = np.array([[target(*size, unit) for unit in (CELL, PATCH)] for size in sizes], np.int16)
    save_file(stored, out / "processor.safetensors")
    print(f"processor: {len(lighton_made.SIZES)} pictures, {len(sizes)} sizes")


def upstream(name: str) -> np.ndarray:
    """Upstream's values [height, width, 3] of a picture."""
    processor = PixtralImageProcessorPil(size={"longest_edge": LONGEST}, patch_size=CELL, do_pad=False)
    values = processor([lighton_made.picture(name)], return_tensors="np")["pixel_values"][0]
    return np.ascontiguousarray(np.asarray(values).transpose(1, 2, 0))


def target(width: int, height: int, unit: int) -> tuple[int, int]:
    """The (width, height) that upstream scales a picture of this size to."""
    empty = np.broadcast_to(np.uint8(0), (3, height, width))
    found = get_resize_output_image_size(
        empty, size=(LONGEST, LONGEST), patch_size=(unit, unit), input_data_format="channels_first"
    )
    return found[1], found[0]


def record_prompts(out: Path) -> None:
    """Ids under both published templates, each with the tokenizer of its models."""
    stored = []
    for template, special in (("lines", lighton_made.QWEN), ("one_line", lighton_made.PRUNED)):
        text = (out / f"{template}.jinja").read_text()
        with tempfile.TemporaryDirectory() as scratch:
            lighton_made.write_tokenizer(Path(scratch), special)
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{scratch}/tokenizer.json", chat_template=text)
        for user in TEXTS:
            for system in SYSTEMS:
                for pictures in (1, 2):
                    content = [{"type": "image"}] * pictures + ([{"type": "text", "text": user}] if user else [])
                    messages = [{"role": "user", "content": content}]
                    if system:
                        messages.insert(0, {"role": "system", "content": system})
                    written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
                    case = {"template": template, "text": user, "system": system, "pictures": pictures}
                    stored.append(case | {"written": written, "ids": ids})
    (out / "prompts.json").write_text(json.dumps(stored, indent=0, ensure_ascii=False) + "\n")
    print(f"prompts: {len(stored)}")
