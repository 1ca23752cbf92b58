"""preprocessor_config.json and its likes: what a folder says of pictures, and a page made ready by it."""

from __future__ import annotations

from PIL import Image, ImageDraw
from scripts.fuzzing import checkpoints
from scripts.fuzzing.parts import typed

from ocr_mlx.domain import Page, Prompt
from ocr_mlx.model.folder import CONFIG
from ocr_mlx.model.load import _described
from ocr_mlx.model.registry import family_for

_SIZE = (120, 160)
_MOST_BYTES = 200_000_000


def one(data: bytes) -> None:
    """What can be read makes a page ready, in little memory."""
    name, rest = checkpoints.chosen(data)
    folder, file = checkpoints.without_weights(name), checkpoints.pictures_of(name)
    config = checkpoints.json_of(name, CONFIG)
    (folder / file).write_bytes(checkpoints.changed(name, file, rest))
    family = family_for(config)
    with typed():
        with _described(folder, family):
            made = family.processor(folder, config)
        prepared = made.prepare(_page(), Prompt(), family.modes[family.default_mode])
        assert len(prepared.glue) == len(prepared.rows)
        assert sum(row.pixels.nbytes for row in prepared.rows if row.pixels is not None) < _MOST_BYTES


def _page() -> Page:
    image = Image.new("RGB", _SIZE, "white")
    ImageDraw.Draw(image).text((20, 20), "Some words", fill="black")
    return Page(index=0, image=image, width=image.width, height=image.height, dpi=None, origin="image")
