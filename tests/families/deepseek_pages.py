"""Pictures, prompts and model outputs that the goldens of DeepSeek-OCR's pages and their tests make alike."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PICTURES = {
    "page": (1190, 1684),
    "landscape": (1684, 1190),
    "small": (600, 400),
    "exact": (640, 640),
    "over": (641, 640),
    "exact_2": (768, 700),
    "over_2": (500, 769),
    "square": (1200, 1200),
    "large_square": (1400, 1400),
    "grey": (900, 1300),
    "one_wide": (1, 300),
    "one_high": (300, 1),
    "tall": (90, 2400),
    "panorama": (4000, 333),
    "huge": (2600, 1900),
    "odd": (1023, 1025),
}
"""Pictures by name: (width, height)."""
EVERYWHERE = ("page", "small", "one_wide", "panorama", "odd")
"""Those that are looked at in every size; the others only with tiles."""
PROMPTS = {
    "document": "<image>\n<|grounding|>Convert the document to markdown.",
    "ocr": "<image>\n<|grounding|>OCR this image.",
    "free": "<image>\nFree OCR. ",
    "figure": "<image>\nParse the figure.",
    "describe": "<image>\nDescribe this image in detail.",
    "locate": "<image>\nLocate <|ref|>the <td> cell<|/ref|> in the image.",
    "parse": "<image>document parsing.",
    "behind": "  What is in <image> here? ",
    "last": "Read this: <image>",
    "joined": "on<image>on the table",
}
"""Whole prompts by name."""
IMAGE_TOKEN = 400
_DOCUMENT = """<|ref|>title<|/ref|><|det|>[[92, 61, 907, 118]]<|/det|>
# A title

<|ref|>text<|/ref|><|det|>[[92, 130, 480, 330]]<|/det|>
First paragraph with \\(a \\coloneqq b \\eqqcolon c\\).

<|ref|>image<|/ref|><|det|>[[510, 130, 907, 400]]<|/det|>

<|ref|>image_caption<|/ref|><|det|>[[510, 405, 907, 440]]<|/det|>
<center>Figure 1: a picture</center>

<|ref|>table<|/ref|><|det|>[[92, 450, 907, 700]]<|/det|>
<table><tr><td>a</td><td>1</td></tr><tr><td>b</td><td></td></tr></table>

<|ref|>image<|/ref|><|det|>[[92, 720, 480, 999]]<|/det|>

<|ref|>text<|/ref|><|det|>[[92, 340, 480, 440], [510, 720, 907, 999]]<|/det|>
Text in two columns that goes on."""
OUTPUTS = {
    "document": _DOCUMENT,
    "document_no_end": _DOCUMENT + "\n\n<|ref|>text<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\nand cut o",
    "plain": "Just text,\nwithout any box.",
    "same_line": "<|ref|>text<|/ref|><|det|>[[0, 0, 999, 20]]<|/det|>One. "
    "<|ref|>text<|/ref|><|det|>[[0, 30, 999, 50]]<|/det|>Two.",
    "blank_lines": "<|ref|>text<|/ref|><|det|>[[0, 0, 999, 20]]<|/det|>\n\n\nOne.\n\n\n\nTwo.",
    "spaces": "<|ref|>sub_title<|/ref|><|det|>[[ 10,20 , 30,  40 ]]<|/det|>\n## Heading\n",
    "formula": "<|ref|>equation<|/ref|><|det|>[[100, 100, 300, 200]]<|/det|>\n\\[x^{2} \\coloneqq y\\]\n",
}
"""Well-formed answers to the document prompt, by name."""


def picture(name: str) -> NDArray[np.uint8]:
    """A made-up page [height, width, 3]: coloured dots in lines on white."""
    width, height = PICTURES[name]
    x, y = np.arange(width, dtype=np.uint32)[None, :], np.arange(height, dtype=np.uint32)[:, None]
    noise = (x * np.uint32(2654435761) ^ y * np.uint32(2246822519)) * np.uint32(3266489917)
    page = np.stack([noise >> np.uint32(shift) for shift in (24, 16, 8)], -1).astype(np.uint8)
    if name == "grey":
        page[:] = page[..., :1]
    page[((y // np.uint32(7)) % np.uint32(3) == 0)[:, 0]] = 255
    return page


def image(name: str) -> Image.Image:
    """The same as a picture."""
    return Image.fromarray(picture(name))


def print_of(values: NDArray[np.float32] | None) -> dict[str, Any] | None:
    """What a golden keeps of float32 values [..., 3]: the shape, a checksum of every bit, and some grey levels."""
    if values is None:
        return None
    plain = np.ascontiguousarray(values, dtype="<f4")
    some = plain.reshape(-1)[:: max(1, plain.size // 40)]
    levels = np.rint((some + 1) * 127.5).astype(int).tolist()
    return {"shape": list(plain.shape), "crc": zlib.crc32(plain.tobytes()), "levels": levels}


def sizes_for_grids() -> list[tuple[int, int]]:
    """Widths and heights in which the choice of tiles is tried: shapes of all kinds, exact ratios, and their middles."""
    stream = np.random.Generator(np.random.PCG64(77))
    random = np.exp(stream.uniform(np.log(20), np.log(9000), (300, 2))).astype(int)
    exact = [(a * side, b * side) for a in range(1, 10) for b in range(1, 10) for side in (70, 331, 700, 1290)]
    middles = [(3 * side, 4 * side) for side in (200, 400, 900)] + [(7 * side, 4 * side) for side in (100, 300, 700)]
    middles += [(5 * side, 2 * side) for side in (130, 310, 900)] + [(7 * side, 12 * side) for side in (60, 110, 300)]
    return [(int(w), int(h)) for w, h in [*random, *exact, *middles]]
