"""Where the rows of a page cut into strips look at it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import ocr_mlx
from ocr_mlx.domain import Page, Prompt
from ocr_mlx.model.base import PreparedPage
from ocr_mlx.model.families.nougat.family import FAMILY
from ocr_mlx.model.families.nougat.processor import read_processor
from ocr_mlx.model.folder import read_json

BUILTIN = Path(ocr_mlx.__file__).parent / "builtin"
BARS = [(40, 30), (40, 90), (430, 90), (40, 200)]
"""Left and top of words, drawn as bars of 90 x 18 pixels; two of them far apart on one line."""


def picture(scale: int = 1) -> Image.Image:
    image = Image.new("RGB", (600 * scale, 300 * scale), "white")
    draw = ImageDraw.Draw(image)
    for left, top in BARS:
        for bar in range(0, 90, 15):
            place = (left + bar, top, left + bar + 8, top + 17)
            draw.rectangle([scale * value for value in place], fill="black")
    return image


def prepared(image: Image.Image) -> PreparedPage:
    processor = read_processor(BUILTIN, read_json(BUILTIN / "config.json"))
    page = Page(index=0, image=image, width=image.width, height=image.height, dpi=None, origin="image")
    return processor.prepare(page, Prompt(), FAMILY.modes[FAMILY.default_mode])


@pytest.mark.parametrize("scale", [1, 8])
def test_boxes_are_in_pixels_of_the_page(scale: int) -> None:
    found = prepared(picture(scale))
    assert len(found.boxes) == len(found.rows) == len(BARS)
    for (left, top), box in zip(BARS, found.boxes, strict=True):
        wanted = [scale * value for value in (left, top, left + 84, top + 18)]
        assert box == pytest.approx(wanted, abs=4 * scale)


def test_boxes_of_a_page_that_lies_aslant_hold_their_words() -> None:
    image = picture().transform((600, 300), Image.Transform.AFFINE, (1, 0, 0, -0.02, 1, 0), fillcolor="white")
    found = prepared(image)
    assert len(found.boxes) == len(BARS)
    for (left, top), box in zip(BARS, found.boxes, strict=True):
        middle = (left + 42, top + 9 + 0.02 * (left + 42))
        assert box[0] < middle[0] < box[2]
        assert box[1] <= middle[1] <= box[3]
        assert box[3] - box[1] < 40


def test_a_blank_page_has_no_boxes() -> None:
    assert prepared(Image.new("RGB", (200, 200), "white")).boxes == ()
