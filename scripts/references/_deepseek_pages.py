"""What DeepSeek-OCR's published code makes of pages, prompts and answers, step by step with Pillow, torch and tokenizers.

The published code itself needs torchvision and flash attention; these are its documented steps, written anew: choice of
tiles, `Image.resize`, `ImageOps.pad` on grey, ToTensor, Normalize; text parts encoded apart; references cut by its one
pattern. Version 2's tiles are held against transformers' own image processor as well.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import PreTrainedTokenizerFast
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil

from tests.families import deepseek_pages, deepseek_words

PATCH, REDUCED = 16, 4
MEAN = STD = 0.5
# base_size, image_size, crop_mode, most tiles, and up to which image_size a page is squashed
SIZES = {
    "1": {
        "tiny": (512, 512, False, 0, 640),
        "small": (640, 640, False, 0, 640),
        "base": (1024, 1024, False, 0, 640),
        "large": (1280, 1280, False, 0, 640),
        "gundam": (1024, 640, True, 9, 640),
    },
    "2": {
        "small": (768, 768, False, 0, 768),
        "base": (1024, 1024, False, 0, 768),
        "gundam": (1024, 768, True, 6, 768),
    },
}
REFERENCE = re.compile(r"(<\|ref\|>(.*?)<\|/ref\|><\|det\|>(.*?)<\|/det\|>)", re.DOTALL)


def record(out: Path) -> None:
    """Write the goldens of pages, prompts and answers under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "pages-pictures.json", pictures())
    _write(out / "pages-grids.json", grids())
    _write(out / "pages-prompts.json", prompts())
    _write(out / "pages-answers.json", answers())
    against_transformers()


# --- pictures --------------------------------------------------------------------------------------------------------


def pictures() -> dict[str, Any]:
    """Version -> size -> picture -> what its views and its places in the prompt are."""
    found: dict[str, Any] = {}
    for version, sizes in SIZES.items():
        for size, settings in sizes.items():
            names = deepseek_pages.PICTURES if settings[2] else deepseek_pages.EVERYWHERE
            found.setdefault(version, {})[size] = {name: look(name, version, settings) for name in names}
    return found


def look(name: str, version: str, settings: tuple[int, int, bool, int, int]) -> dict[str, Any]:
    """One picture in one size."""
    base, side, crop, most, squash = settings
    image = deepseek_pages.image(name)
    grid, tiles = (1, 1), None
    if crop:
        if image.width > side or image.height > side:
            grid = closest(image.width / image.height, image.width * image.height, side, most)
            tiles = np.stack([tensor(part) for part in cut(image, grid, side)])
        whole = ImageOps.pad(image, (base, base), color=(int(MEAN * 255),) * 3)
    else:
        if side <= squash:
            image = image.resize((side, side))
        whole = ImageOps.pad(image, (side, side), color=(int(MEAN * 255),) * 3)
    return {
        "grid": list(grid),
        "places": places(version, side, base if crop else side, grid),
        "whole": deepseek_pages.print_of(tensor(whole)),
        "tiles": deepseek_pages.print_of(tiles),
    }


def closest(ratio: float, area: int, side: int, most: int) -> tuple[int, int]:
    """The grid of 2 to `most` tiles whose shape is nearest."""
    ratios = {(i, j) for i in range(1, most + 1) for j in range(1, most + 1) if 2 <= i * j <= most}
    least, best = math.inf, (1, 1)
    for one in sorted(ratios, key=lambda one: one[0] * one[1]):
        difference = abs(ratio - one[0] / one[1])
        if difference < least:
            least, best = difference, one
        elif difference == least and area > 0.5 * side * side * one[0] * one[1]:
            best = one
    return best


def cut(image: Image.Image, grid: tuple[int, int], side: int) -> list[Image.Image]:
    """The picture, stretched to whole tiles, cut row by row."""
    columns, rows = grid
    stretched = image.resize((columns * side, rows * side))
    corners = [(index % columns * side, index // columns * side) for index in range(columns * rows)]
    return [stretched.crop((left, top, left + side, top + side)) for left, top in corners]


def tensor(image: Image.Image) -> np.ndarray:
    """ToTensor and Normalize in torch; [height, width, 3]."""
    levels = torch.from_numpy(np.array(image)).to(torch.float32).div(255)
    return levels.sub_(MEAN).div_(STD).numpy()


def places(version: str, side: int, base: int, grid: tuple[int, int]) -> int:
    """How many image tokens."""
    small, large = (math.ceil((size // PATCH) / REDUCED) for size in (side, base))
    tiled, (columns, rows) = grid != (1, 1), grid
    if version == "2":
        return large * large + 1 + columns * rows * small * small * tiled
    return large * (large + 1) + 1 + rows * small * (columns * small + 1) * tiled


def grids() -> list[list[int]]:
    """[width, height, columns and rows of version 1, columns and rows of version 2] for many shapes."""
    rows = []
    for width, height in deepseek_pages.sizes_for_grids():
        one, two = (closest(width / height, width * height, side, most) for side, most in ((640, 9), (768, 6)))
        rows.append([width, height, *one, *two])
    return rows


def against_transformers() -> None:
    """Hold version 2's views against transformers' image processor; say where the two differ."""
    processor = DeepseekOcr2ImageProcessorPil()
    differ = []
    for name in deepseek_pages.PICTURES:
        ours = look_values(name)
        theirs = processor(deepseek_pages.image(name), return_tensors="np")
        local = theirs.get("pixel_values_local")
        if (local is None) != (ours[1] is None):
            raise SystemExit(f"{name}: tiles here or there only")
        if local is not None:
            found = np.stack([np.asarray(part).transpose(1, 2, 0) for part in local])
            np.testing.assert_allclose(found, ours[1], atol=2e-6)
        found = np.asarray(theirs["pixel_values"][0]).transpose(1, 2, 0)
        if found.shape != ours[0].shape or np.abs(found - ours[0]).max() > 2e-6:
            differ.append(name)
    print(f"transformers' tiles equal ours for all pictures; its whole views differ for {', '.join(differ) or 'none'}")


def look_values(name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Version 2's whole view and tiles."""
    image = deepseek_pages.image(name)
    whole = tensor(ImageOps.pad(image, (1024, 1024), color=(127, 127, 127)))
    if max(image.size) <= 768:
        return whole, None
    grid = closest(image.width / image.height, image.width * image.height, 768, 6)
    return whole, np.stack([tensor(part) for part in cut(image, grid, 768)])


# --- prompts and answers ---------------------------------------------------------------------------------------------


def prompts() -> dict[str, list[int]]:
    """Each prompt's ids with three places for the picture, by transformers' tokenizer class."""
    made = deepseek_words.tokenizer(deepseek_pages.IMAGE_TOKEN)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    found = {}
    for name, prompt in deepseek_pages.PROMPTS.items():
        before, after = prompt.strip().split("<image>")
        parts = [tokenizer.encode(part, add_special_tokens=False) for part in (before, after)]
        found[name] = [0, *parts[0], *[deepseek_pages.IMAGE_TOKEN] * 3, *parts[1]]
    return found


def answers() -> dict[str, Any]:
    """Each answer as the published PDF script cleans it, and its labels and boxes in thousandths (0 to 999)."""
    found = {}
    for name, answer in deepseek_pages.OUTPUTS.items():
        text, labelled = answer.strip(), REFERENCE.findall(answer)
        for index, whole in enumerate(one[0] for one in labelled if "<|ref|>image<|/ref|>" in one[0]):
            text = text.replace(whole, f"![](images/{index}.jpg)\n")
        for whole, label, _ in labelled:
            if label != "image":
                text = text.replace(whole, "")
        text = text.replace("\\coloneqq", ":=").replace("\\eqqcolon", "=:")
        text = text.replace("\n\n\n\n", "\n\n").replace("\n\n\n", "\n\n")
        boxes = [[label, box] for _, label, det in labelled for box in json.loads(det)]
        found[name] = {"text": text, "boxes": boxes}
    return found


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes")
