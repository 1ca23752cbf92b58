"""Draw lines of text with installed fonts, wear the picture a little, and cut it with the product's own splitter."""

import io
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from builtin.text import CHARACTERS, Texts, clean
from ocr_mlx.model.families.nougat.strips import Strip, StripSettings, split_page

HELD_OUT = (
    *("Caladea", "EB Garamond", "EBGaramond", "Charis", "Roboto", "Cantarell", "Tuffy"),
    *("Fira Code", "Inconsolata"),
)
SKIPPED = (
    *("Math", "Symbol", "Emoji", "Dingbats", "D050000L", "Initials", "Keyboard", "Junicode", "SmallCap", "Caps"),
    *("Unslanted", "Hairline", "Chancery", "Upright", "Z003", "Chorus", "LM Mono Prop", "SC", "Thin", "Outline"),
)
WEAR = ("blur", "turn", "noise", "jpeg", "invert", "underline", "binary", "binary")
LIGATURES = {"ﬁ": "fi", "ﬂ": "fl"}
NOTO = ("Noto Sans", "Noto Serif", "Noto Sans Display", "Noto Serif Display", "Noto Sans Mono")


@dataclass(frozen=True, slots=True)
class Line:
    """A drawn line: its text, its (top, bottom), and the middle of each character on the x axis."""

    text: str
    rows: tuple[int, int]
    middles: NDArray[np.float64]


@lru_cache(2000)
def font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """A font file at a size in pixels, without ligatures."""
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def font_files(*, held_out: bool) -> list[str]:
    """Installed fonts with Latin letters, of the families kept for evaluation or of all others."""
    rows = subprocess.run(["fc-list", ":", "file", "family"], capture_output=True, text=True, check=True).stdout
    chosen = []
    for row in sorted(set(rows.splitlines())):
        path, _, family = row.partition(": ")
        known = not family.startswith("Noto") or family.split(",")[0].strip() in NOTO
        skipped = not known or any(word in family or word in path for word in SKIPPED)
        if path.lower().endswith((".ttf", ".otf")) and not skipped:
            if any(name in family or name in path for name in HELD_OUT) == held_out and covers(path, "aßéÖ9&"):
                chosen.append(path)
    return chosen


@lru_cache(2000)
def missing(path: str) -> frozenset[str]:
    """The known characters that a font file draws as an empty box."""
    face = font(path, 20)
    box = bytes(face.getmask("\uffff"))
    return frozenset(c for c in (*CHARACTERS, *LIGATURES) if c != " " and bytes(face.getmask(c)) in (box, b""))


def covers(path: str, text: str) -> bool:
    """Whether a font has every character of a text."""
    return not missing(path) & set(text)


def draw_line(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, face: ImageFont.FreeTypeFont, ink: int
) -> Line:
    """Draw one line and note where its characters are."""
    draw.text(at, text, fill=ink, font=face)
    advances = np.array([advance(face, c) for c in text])
    ends = np.cumsum(advances) * (face.getlength(text) / max(1.0, advances.sum()))
    _, top, _, bottom = draw.textbbox(at, text, font=face)
    return Line(text, (int(top), int(bottom)), at[0] + ends - advances / 2)


@lru_cache(200_000)
def advance(face: ImageFont.FreeTypeFont, character: str) -> float:
    """The width of one character in pixels."""
    return face.getlength(character)


class Renderer:
    """Endless strips with their texts; the same seed gives the same strips."""

    def __init__(
        self, seed: int, settings: StripSettings, *, held_out: bool = False, worn: float = 0.3, running: float = 0.5
    ) -> None:
        self.random = random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.settings = settings
        self.worn = worn
        self.texts = Texts(seed, held_out=held_out, running=running)
        self.fonts = font_files(held_out=held_out)

    def strips(self, width: Callable[[], int]) -> Iterator[tuple[NDArray[np.uint8], str]]:
        """Pictures uint8 [height, width] and their texts, for ever; `width` is asked before every picture."""
        while True:
            settings = replace(self.settings, width=width())
            if self.random.random() < 0.015:
                yield self.nothing(settings.width), ""
                continue
            picture, lines = self.picture(self.random.choice((1, 1, 2, 3)))
            if self.random.random() < self.worn:
                picture = self.wear(picture)
            for strip, text in pair(split_page(picture, settings), lines):
                yield self.jitter(strip.pixels), text

    def picture(self, count: int, length: int | None = None) -> tuple[Image.Image, list[Line]]:
        """`count` lines of one font in one picture, black or grey on light, of about `length` characters or of any."""
        size = round(10 * 4.6 ** self.random.random())
        texts = [self.texts.line(length or self.random.choice((6, 12, 24, 36, 48, 60, 70))) for _ in range(count)]
        path = self.random.choice(self.fonts)
        while not all(covers(path, text) for text in texts):
            if self.random.random() < 0.2:
                texts = [self.texts.line(length or 24) for _ in texts]
            path = self.random.choice(self.fonts)
        texts = [self.set_type(text, path) for text in texts]
        face = font(path, size)
        pitch = round(sum(face.getmetrics()) * self.random.uniform(0.95, 1.5))
        left, top = self.random.randint(1, 30), self.random.randint(1, 20)
        width = round(max(face.getlength(text) for text in texts)) + left + self.random.randint(2, 40)
        paper = self.random.choice((255, 255, 255, self.random.randint(205, 254)))
        image = Image.new("L", (width, pitch * count + size // 2 + 2 * top), paper)
        draw = ImageDraw.Draw(image)
        ink = self.random.choice((0, 0, 0, self.random.randint(1, 120)))
        return image, [draw_line(draw, (left, top + i * pitch), text, face, ink) for i, text in enumerate(texts)]

    def set_type(self, text: str, path: str) -> str:
        """A few lines get the ligatures their font has, or wider blanks; `clean` undoes both for the label."""
        if self.random.random() < 0.1:
            text = text.replace(" ", "  ")
        if self.random.random() < 0.15:
            for ligature, letters in LIGATURES.items():
                if covers(path, ligature):
                    text = text.replace(letters, ligature)
        return text

    def wear(self, image: Image.Image) -> Image.Image:
        """Blur, turn, invert, underline, add noise or compress: one or two of these, lightly."""
        for kind in self.random.sample(WEAR, self.random.choice((1, 1, 2))):
            if kind == "blur":
                image = image.filter(ImageFilter.GaussianBlur(self.random.uniform(0.2, 0.02 * image.height**0.5 + 0.6)))
            elif kind == "turn":
                paper = image.getpixel((0, 0))
                image = image.rotate(self.random.uniform(-0.7, 0.7), Image.Resampling.BICUBIC, fillcolor=paper)
            elif kind == "noise":
                grain = self.noise.normal(0, self.random.uniform(2, 14), (image.height, image.width))
                image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
            elif kind == "jpeg":
                file = io.BytesIO()
                image.save(file, "JPEG", quality=self.random.randint(30, 85))
                image = Image.open(file).convert("L")
            elif kind == "binary":
                limit = self.random.randint(110, 190)
                image = image.filter(ImageFilter.GaussianBlur(self.random.uniform(0, 0.6)))
                image = Image.eval(image, lambda value, limit=limit: 255 * (value > limit))
            elif kind == "invert":
                image = Image.eval(image, lambda value: 255 - value)
            else:
                row = self.random.randint(image.height * 3 // 4, image.height - 1)
                ImageDraw.Draw(image).line((0, row, image.width, row), fill=self.random.randint(0, 120))
        return image

    def jitter(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Half of the strips a little larger, smaller, wider or shifted."""
        if self.random.random() < 0.5:
            return pixels
        height, width = pixels.shape
        across, down = self.random.uniform(1.0, 1.12), self.random.uniform(0.9, 1.12)
        shift = height * (1 - down) / 2 + self.random.uniform(-1.5, 1.5)
        image = Image.fromarray(pixels)
        turned = image.transform(
            (width, height), Image.Transform.AFFINE, (across, 0, self.random.uniform(0, 2), 0, down, shift),
            Image.Resampling.BILINEAR, fillcolor=255,
        )  # fmt: skip
        return np.asarray(turned)

    def nothing(self, width: int) -> NDArray[np.uint8]:
        """A strip without text: white, grain, or a few bars."""
        strip = np.full((self.settings.height, width), 255, np.uint8)
        kind = self.random.random()
        if kind < 0.4:
            return self.noise.integers(0, 256, strip.shape, np.uint8)
        if kind < 0.8:
            for _ in range(self.random.randint(1, 3)):
                row, column = self.random.randrange(strip.shape[0] - 4), self.random.randrange(width // 2)
                strip[row : row + self.random.randint(1, 4), column : column + self.random.randint(40, width)] = 0
        return strip


def pair(strips: list[Strip], lines: list[Line]) -> Iterator[tuple[Strip, str]]:
    """Each strip with the characters it shows; lines of which the splitter lost or mixed something are left out."""
    for line in lines:
        top, bottom = line.rows
        highest = 1.5 * (bottom - top) + 4
        middles = [((s.box[1] + s.box[3]) / 2, s) for s in strips if s.box[3] - s.box[1] < highest]
        own = [s for middle, s in middles if top - 2 <= middle <= bottom + 2]
        inside = np.array([(line.middles >= s.box[0] - 1) & (line.middles <= s.box[2] + 1) for s in own])
        inked = np.array([c != " " for c in line.text])
        if len(own) and bool((inside[:, inked].sum(0) == 1).all()) and len({s.line for s in own}) == 1:
            for strip, mask in zip(own, inside, strict=True):
                yield strip, clean("".join(c for c, here in zip(line.text, mask, strict=True) if here))
