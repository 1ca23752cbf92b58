"""What must be called blank, and what must never be: pictures made here, with the font that Pillow brings."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ocr_mlx.inference.blank import is_blank

WIDTH, HEIGHT = 700, 900
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)


def picture(levels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert("RGB")


def noise(seed: int = 0, *, sigma: float = 1.0, channels: int = 0) -> NDArray[np.float64]:
    shape = (HEIGHT, WIDTH, channels) if channels else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).normal(0, sigma, shape)


def pepper(share: float, *, ground: float = 255, salt: bool = False) -> NDArray[np.float64]:
    drawn = np.random.default_rng(1).random((HEIGHT, WIDTH))
    levels = np.full((HEIGHT, WIDTH), ground)
    levels[drawn < share / 2] = 0
    if salt:
        levels[drawn > 1 - share / 2] = 255
    return levels


def smooth(radius: float, low: float, high: float) -> NDArray[np.float64]:
    """Soft stains `radius` pixels wide, from `low` to `high`."""
    drawn = Image.fromarray(np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8))
    soft = np.asarray(drawn.filter(ImageFilter.GaussianBlur(radius)), np.float64)
    return low + (soft - soft.min()) / (soft.max() - soft.min()) * (high - low)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    written = io.BytesIO()
    image.save(written, "JPEG", quality=quality)
    return Image.open(written).convert("RGB")


def paper(darkest: float) -> NDArray[np.float64]:
    return 0.5 * smooth(1, darkest, 255) + 0.3 * smooth(6, darkest, 255) + 0.2 * smooth(40, darkest, 255)


def streaks(*, down: bool) -> Image.Image:
    levels = 245 + noise(sigma=3)
    for at in (90, 91, 300, 555, 556, 557):
        levels[(slice(None), at) if down else (at, slice(None))] -= 60
    return picture(levels)


def ruled(*, every: int, text: str = "") -> Image.Image:
    image = written(text, size=14, at=(300, 405))
    for at in range(20, HEIGHT, every):
        ImageDraw.Draw(image).line([(0, at), (WIDTH, at)], fill=(150, 150, 190))
    return image


BLANK: dict[str, Callable[[], Image.Image]] = {
    "white": lambda: Image.new("RGB", (WIDTH, HEIGHT), "white"),
    "black": lambda: Image.new("RGB", (WIDTH, HEIGHT), "black"),
    "coloured": lambda: Image.new("RGB", (WIDTH, HEIGHT), (180, 40, 90)),
    "one pixel": lambda: Image.new("RGB", (1, 1), "white"),
    "a strip": lambda: Image.new("RGB", (40_000, 3), "white"),
    "faint noise": lambda: picture(255 + noise(sigma=3)),
    "noise on white": lambda: picture(255 + noise(sigma=25)),
    "noise on grey": lambda: picture(128 + noise(sigma=60)),
    "noise on black": lambda: picture(noise(sigma=25)),
    "coloured noise": lambda: picture(230 + noise(sigma=40, channels=3)),
    "every level alike": lambda: picture(np.random.default_rng(0).uniform(0, 256, (HEIGHT, WIDTH))),
    "black or white": lambda: picture(np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH)) * 255.0),
    "large noise": lambda: (
        picture(240 + noise(sigma=20))
        .resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.NEAREST)
        .resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    ),
    "a few specks": lambda: picture(pepper(0.00005)),
    "some pepper": lambda: picture(pepper(0.005)),
    "much pepper": lambda: picture(pepper(0.05)),
    "salt and pepper": lambda: picture(pepper(0.05, ground=200, salt=True)),
    "much salt and pepper": lambda: picture(pepper(0.2, ground=200, salt=True)),
    "jpeg noise": lambda: jpeg(picture(235 + noise(sigma=12)), 50),
    "coarse jpeg noise": lambda: jpeg(picture(235 + noise(sigma=12)), 20),
    "fine paper": lambda: picture(paper(235)),
    "rough paper": lambda: picture(paper(150)),
    "a photographed sheet": lambda: jpeg(picture(smooth(60, 230, 255) + noise(sigma=4)), 60),
    "a black scan": lambda: jpeg(picture(8 + np.abs(noise(sigma=5))), 40),
    "light from one side": lambda: picture(X / WIDTH * 255 + noise()),
    "shade below": lambda: picture(60 + Y / HEIGHT * 195),
    "scanner streaks": lambda: streaks(down=True),
    "streaks across": lambda: streaks(down=False),
    "ruled": lambda: ruled(every=40),
    "dark corners": lambda: picture(250 - 300 * ((X / WIDTH - 0.5) ** 2 + (Y / HEIGHT - 0.5) ** 2) + noise(sigma=2)),
}


@pytest.mark.parametrize("name", BLANK)
def test_nothing_is_on_it(name: str) -> None:
    assert is_blank(BLANK[name]())


def written(
    text: str,
    *,
    size: float = 20,
    ink: object = "black",
    ground: object = "white",
    at: tuple[int, int] = (300, 400),
    pixels: tuple[int, int] = (WIDTH, HEIGHT),
) -> Image.Image:
    image = Image.new("RGB", pixels, ground)  # type: ignore[arg-type]
    ImageDraw.Draw(image).text(at, text, fill=ink, font=ImageFont.load_default(size))  # type: ignore[arg-type]
    return image


def with_text(levels: NDArray[np.float64], text: str, *, size: float = 20, depth: float = 255) -> Image.Image:
    """The text so much darker than what is there; print on paper, so to say."""
    at = (60, 60) if "\n" in text else (300, 400)
    mask = np.asarray(written(text, size=size, at=at).convert("L"), np.float64)
    return picture(levels - depth * (1 - mask / 255))


def signature() -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    points = [(300 + 4 * t, 700 + 30 * math.sin(t) * math.cos(t / 3)) for t in range(60)]
    ImageDraw.Draw(image).line(points, fill=(30, 30, 140), width=2)
    return image


def dithered() -> Image.Image:
    return written("Faint and dithered", size=30, ink=(200, 200, 200), at=(200, 500)).convert("1").convert("RGB")


def of_one_lightness() -> Image.Image:
    """Red on green that is exactly as light: without colour there is nothing to see."""
    return written("Isoluminant", size=40, ink=(200, 0, 0), ground=(0, 102, 0), at=(200, 500))


def dark_photograph() -> Image.Image:
    text = "\n".join(["the light was out and yet one could read it"] * 12)
    mask = np.asarray(written(text, size=24, at=(80, 200)).convert("L"), np.float64)
    return jpeg(picture(12 + 20 * mask / 255 + np.random.default_rng(5).normal(0, 4, mask.shape)), 70)


def full_of_text() -> Image.Image:
    text = "\n".join("4f 6e 65 20 74 77 6f 20 74 68 72 65 65 " * 4 for _ in range(140))
    return written(text, size=8, at=(-3, -3))


PRINT: dict[str, Callable[[], Image.Image]] = {
    "a word": lambda: written("Hello"),
    "one letter": lambda: written("I", size=12),
    "one digit": lambda: written("1", size=10),
    "a page number": lambda: written("- 7 -", size=10, at=(330, 880)),
    "a number in the corner": lambda: written("1", size=10, at=(692, 886)),
    "a page number at 600 dpi": lambda: written("1", size=60, at=(2400, 6700), pixels=(4960, 7016)),
    "small print at 300 dpi": lambda: written("1", size=22, at=(1200, 3300), pixels=(2480, 3508)),
    "tiny": lambda: written("tiny words", size=6),
    "faint": lambda: written("hardly to be seen", ink=(240, 240, 240)),
    "inverted": lambda: written("light on dark", ink="white", ground="black"),
    "inverted and faint": lambda: written("light on dark", ink=(16, 16, 16), ground="black"),
    "yellow on white": lambda: written("yellow", ink=(255, 255, 0)),
    "of one lightness": of_one_lightness,
    "dithered": dithered,
    "a signature": signature,
    "a dark photograph": dark_photograph,
    "full of text": full_of_text,
    "a huge letter": lambda: written("A", size=900, at=(60, 0)),
    "a line only": lambda: written("one line", size=30, at=(5, 2), pixels=(140, 40)),
    "on noise": lambda: with_text(230 + noise(sigma=10), "words on noise"),
    "on strong noise": lambda: with_text(200 + noise(sigma=30), "words on noise", size=30, depth=150),
    "a number on noise": lambda: with_text(230 + noise(sigma=10), "7", depth=150),
    "weak on noise": lambda: with_text(200 + noise(sigma=20), "\n".join(["as weak as this"] * 9), size=40, depth=60),
    "too weak for any one place": lambda: with_text(
        128 + noise(sigma=30), "\n".join(["as weak as this"] * 9), size=44, depth=35
    ),
    "large on the strongest noise": lambda: with_text(128 + noise(sigma=60), "LARGE", size=120, depth=120),
    "on pepper": lambda: with_text(pepper(0.005), "words among specks"),
    "a number on pepper": lambda: with_text(pepper(0.0005), "7", size=14),
    "on much pepper": lambda: with_text(pepper(0.05, ground=200, salt=True), "words among specks", size=24),
    "on rough paper": lambda: with_text(paper(150), "words on paper", depth=90),
    "a number on paper": lambda: with_text(paper(200), "7", depth=90),
    "between rules": lambda: ruled(every=40, text="7"),
    "a letter cut out": lambda: written("T", size=400, at=(-4, -105), pixels=(240, 290)),
    "a large letter cut out": lambda: written("T", size=600, at=(-6, -158), pixels=(360, 435)),
    "a dash over the whole width": lambda: written("————————", size=90, at=(0, 300)),
    "in a shadow": lambda: with_text(X / WIDTH * 200 + 40, "7", depth=30),
    "on jpeg noise": lambda: jpeg(with_text(235 + noise(sigma=12), "words", size=16, depth=120), 30),
}


@pytest.mark.parametrize("name", PRINT)
def test_something_is_on_it(name: str) -> None:
    assert not is_blank(PRINT[name]())


@pytest.mark.parametrize("size", [7, 9, 12])
@pytest.mark.parametrize("digit", "0123456789")
def test_no_digit_is_too_thin(digit: str, size: int) -> None:
    assert not is_blank(written(digit, size=size))


def test_the_picture_is_left_alone() -> None:
    image = written("Hello")
    before = image.tobytes()
    is_blank(image)
    assert image.tobytes() == before
