"""Character error rates of an exported model, with Tesseract's on the same pictures beside them."""

import io
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from builtin.export import load
from builtin.net import Reader
from builtin.render import Renderer
from builtin.score import error_rate
from builtin.text import clean, decode
from ocr_mlx.model.families.nougat.strips import StripSettings, join_strips, split_page, strip_planes

LANGUAGES = "eng+deu+fra"
ROWS = 64
PICTURES = (".png", ".jpg", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Sample:
    """Pictures with their texts under a name; `layout` is Tesseract's page segmentation mode."""

    name: str
    pictures: list[Image.Image]
    texts: list[str]
    layout: int


def evaluate(folder: Path, lines: int, pages: int, corpus: Path | None, seed: int = 77) -> None:
    """Print a table of error rates: made lines and pages in held-out fonts and texts, and the pages of a corpus."""
    model = load(folder)
    samples = [
        made("lines", lines, seed),
        made("lines, running text only", lines, seed, running=1.0),
        made("lines, worn", lines, seed, worn=True),
        made("pages of 20 lines", pages, seed, rows=20, length=55),
        made("pages, running text only", pages, seed, rows=20, length=55, running=1.0),
        *([] if corpus is None else scanned(corpus)),
    ]
    print(
        f"{'pictures':28} {'count':>5} {'characters':>10} {'builtin':>9} {'seconds':>8} {'tesseract':>9} {'seconds':>8}"
    )
    for sample in samples:
        own, own_time = measure(sample, lambda image, _: read(model, image))
        other, other_time = measure(sample, tesseract) if shutil.which("tesseract") else (float("nan"), 0.0)
        count = sum(map(len, sample.texts))
        row = f"{sample.name:28} {len(sample.texts):5} {count:10} {own:9.2%} {own_time:8.1f}"
        print(f"{row} {other:9.2%} {other_time:8.1f}", flush=True)


def made(
    name: str,
    count: int,
    seed: int,
    *,
    rows: int = 1,
    length: int | None = None,
    running: float = 0.5,
    worn: bool = False,
) -> Sample:
    """Pictures of `rows` lines drawn in fonts and from texts that training never saw."""
    renderer = Renderer(seed, StripSettings(), held_out=True, running=running)
    pictures, texts = [], []
    for _ in range(count):
        picture, drawn = renderer.picture(rows, length)
        pictures.append(renderer.wear(picture) if worn else picture)
        texts.append("\n".join(clean(line.text) for line in drawn))
    return Sample(name, pictures, texts, 7 if rows == 1 else 6)


def scanned(folder: Path) -> list[Sample]:
    """The pictures of a folder that have their text beside them as NAME.gt.txt."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in PICTURES]
    truths = {path: path.with_name(path.name + ".gt.txt") for path in paths}
    return [
        Sample(path.name, [Image.open(path)], [truth.read_text("utf-8")], 3)
        for path, truth in truths.items()
        if truth.exists()
    ]


def measure(sample: Sample, reader: Callable[[Image.Image, int], str]) -> tuple[float, float]:
    """Error rate, white space taken as one blank, and seconds."""
    started = time.perf_counter()
    texts = [reader(picture, sample.layout) for picture in sample.pictures]
    seconds = time.perf_counter() - started
    return error_rate(flat(sample.texts), flat(texts)), seconds


def flat(texts: Sequence[str]) -> list[str]:
    """Texts with all white space as single blanks."""
    return [" ".join(text.split()) for text in texts]


def read(model: Reader, image: Image.Image) -> str:
    """The text of a page."""
    strips = split_page(image, StripSettings())
    texts: list[str] = []
    for at in range(0, len(strips), ROWS):
        pixels = np.stack([strip.pixels for strip in strips[at : at + ROWS]])
        texts += [decode(ids) for ids in model.read(torch.from_numpy(strip_planes(pixels)))]
    return join_strips(strips, texts)


def tesseract(image: Image.Image, layout: int) -> str:
    """Tesseract's text of a page."""
    file = io.BytesIO()
    white = Image.new("RGBA", image.size, "white")
    Image.alpha_composite(white, image.convert("RGBA")).convert("L").save(file, "PNG")
    command = ["tesseract", "-", "-", "-l", LANGUAGES, "--psm", str(layout)]
    limited = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    return subprocess.run(command, input=file.getvalue(), capture_output=True, env=limited, check=True).stdout.decode()
