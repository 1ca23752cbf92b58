import time

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ocr_mlx.model.families.nougat.strips import (
    PLANES,
    Strip,
    StripSettings,
    join_strips,
    split_page,
    strip_planes,
)

SETTINGS = StripSettings()
WORDS = "the quick brown fox jumps over a lazy dog and runs home again".split()


def blank(width: int, height: int, paper: int = 255) -> Image.Image:
    return Image.new("L", (width, height), paper)


def write(image: Image.Image, at: tuple[float, float], text: str, size: int = 24, ink: int = 0) -> None:
    ImageDraw.Draw(image).text(at, text, fill=ink, font=ImageFont.load_default(size))


def paragraph(lines: int, width: int = 700, size: int = 24, pitch: int = 34) -> Image.Image:
    image = blank(width, lines * pitch + 60)
    for line in range(lines):
        write(image, (30, 30 + line * pitch), " ".join(WORDS[line % 5 : line % 5 + 6]), size)
    return image


def split(image: Image.Image) -> list[Strip]:
    return split_page(image, SETTINGS)


def line_count(strips: list[Strip]) -> int:
    return strips[-1].line + 1 if strips else 0


def test_strips_have_the_settings_size_and_dark_text_on_white() -> None:
    for strip in split(paragraph(3)):
        assert strip.pixels.shape == (SETTINGS.height, SETTINGS.width)
        assert strip.pixels.dtype == np.uint8
        assert np.median(strip.pixels) == 255
        assert strip.pixels.min() < 60


def test_every_line_is_found_from_the_top() -> None:
    strips = split(paragraph(7))
    assert line_count(strips) == 7
    assert [strip.line for strip in strips] == sorted(strip.line for strip in strips)
    assert strips[0].glue == ""
    assert {strip.glue for strip in strips[1:]} == {" ", "\n"}


def test_boxes_lie_on_the_text() -> None:
    image = blank(400, 200)
    write(image, (50, 80), "Hello", 30)
    (strip,) = split(image)
    left, top, right, bottom = strip.box
    inked = np.argwhere(np.asarray(image) < 128)
    assert np.abs(np.array([top, left]) - inked.min(0)).max() <= 2
    assert np.abs(np.array([bottom - 1, right - 1]) - inked.max(0)).max() <= 2


def test_tight_margins_do_not_matter() -> None:
    image = paragraph(1)
    tight = image.crop(Image.eval(image, lambda value: 255 - value).getbbox())
    for one, other in zip(split(tight), split(image), strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).mean() < 3


def test_a_long_line_is_cut_between_words() -> None:
    image = blank(2400, 60)
    ends = []
    at = 10.0
    for word in WORDS * 3:
        write(image, (at, 10), word)
        at += ImageFont.load_default(24).getlength(word)
        ends.append(at)
        at += 8
    strips = split(image)
    assert len(strips) > 4
    assert {strip.glue for strip in strips[1:]} == {" "}
    for strip in strips:
        assert min(abs(end - strip.box[2]) for end in ends) < 4


def test_a_word_longer_than_a_strip_is_cut_and_joined_without_a_space() -> None:
    image = blank(1600, 100)
    write(image, (10, 10), "above")
    write(image, (10, 50), "m" * 60)
    strips = split(image)[1:]
    assert len(strips) > 1
    assert [strip.glue for strip in strips] == ["\n"] + [""] * (len(strips) - 1)


@pytest.mark.parametrize("size", [10, 16, 40, 90])
def test_text_of_any_size_has_the_same_height_in_a_strip(size: int) -> None:
    image = blank(12 * size, 3 * size)
    write(image, (size, size), "dogjump", size)
    (strip,) = split(image)
    rows = np.flatnonzero((strip.pixels < 128).any(1))
    assert abs(rows[-1] + 1 - rows[0] - SETTINGS.text_height) <= 2


def test_a_line_of_dashes_is_not_blown_up() -> None:
    image = paragraph(5)
    write(image, (30, 30 + 5 * 34), "- - - -")
    dashes = split(image)[-1]
    assert dashes.line == 5
    assert np.flatnonzero((dashes.pixels < 128).any(1)).size <= 6


@pytest.mark.parametrize("text", ["ïüî ö ä", "TROP TASSÉ, ÂGÉ"])
def test_dots_and_accents_stay_with_their_line(text: str) -> None:
    image = blank(400, 60)
    write(image, (10, 10), text, 30)
    assert line_count(split(image)) == 1


def test_paragraphs_are_parted_by_an_empty_line() -> None:
    image = blank(600, 300)
    for row in (20, 54, 150, 184):
        write(image, (20, row), "some words of text")
    strips = split(image)
    assert [strip.glue for strip in strips if "\n" in strip.glue] == ["\n", "\n\n", "\n"]


def test_two_columns_are_read_one_after_the_other() -> None:
    image = blank(1100, 600)
    write(image, (200, 10), "a heading over both of the columns of this page", 30)
    for line in range(12):
        write(image, (30, 80 + 40 * line), "left column text goes here x")
        write(image, (600, 93 + 40 * line), "right column text goes here")
    sides = [strip.box[0] > 550 for strip in split(image) if strip.line > 0]
    assert sides == sorted(sides)
    assert True in sides and False in sides


def test_a_table_is_read_row_by_row() -> None:
    image = blank(900, 400)
    for row in range(8):
        write(image, (30, 20 + 40 * row), WORDS[row])
        write(image, (700, 20 + 40 * row), f"{row}.99")
    strips = split(image)
    assert line_count(strips) == 8
    assert [strip.glue for strip in strips[1:3]] == [" ", "\n"]


def test_rules_and_underlines_are_no_text() -> None:
    image = paragraph(3)
    draw = ImageDraw.Draw(image)
    for row in (22, 64, 98, 132):
        draw.line((20, row, 680, row), fill=0, width=2)
    for column in (20, 680):
        draw.line((column, 22, column, 132), fill=0, width=2)
    assert line_count(split(image)) == 3


def test_light_text_on_dark_is_turned() -> None:
    dark = Image.eval(paragraph(2), lambda value: 255 - value)
    assert np.array_equal([s.pixels for s in split(dark)], [s.pixels for s in split(paragraph(2))])


def test_grey_text_gets_full_contrast() -> None:
    image = blank(300, 60, 230)
    write(image, (10, 10), "pale text", ink=150)
    (strip,) = split(image)
    assert strip.pixels.min() < 40 and np.median(strip.pixels) == 255


def test_a_slightly_turned_page_keeps_its_lines() -> None:
    turned = paragraph(12).rotate(1.2, Image.Resampling.BICUBIC, fillcolor=255)
    strips = split(turned)
    assert line_count(strips) == 12
    first = [strip.box for strip in strips if strip.line == 0]
    assert first[0][1] > first[-1][1]


def test_specks_are_no_text() -> None:
    image = paragraph(2)
    pixels = np.array(image)
    noise = np.random.default_rng(0)
    pixels[noise.integers(0, pixels.shape[0], 40), noise.integers(0, pixels.shape[1], 40)] = 0
    assert line_count(split(Image.fromarray(pixels))) == 2


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 3), (640, 480)])
def test_a_blank_page_has_no_strips(size: tuple[int, int]) -> None:
    assert split(blank(*size)) == []


def test_noise_gives_few_strips() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 800), np.uint8)
    assert len(split(Image.fromarray(pixels))) <= 3


@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (2, 2), (5, 7), (7000, 40), (40, 7000)])
def test_odd_sizes_do_not_crash(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 2, shape, np.uint8) * 255
    for strip in split(Image.fromarray(pixels)):
        assert strip.pixels.shape == (SETTINGS.height, SETTINGS.width)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "CMYK"])
def test_every_mode_is_read(mode: str) -> None:
    image = paragraph(2)
    converted = image.convert("RGB").convert(mode) if mode not in ("I;16", "LA") else image.convert(mode)
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    assert line_count(split(converted)) == 2


def test_transparent_ground_is_white() -> None:
    image = Image.new("RGBA", (300, 60), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((10, 10), "clear", fill=(0, 0, 0, 255), font=ImageFont.load_default(24))
    assert line_count(split(image)) == 1


def test_a_large_page_is_split_within_its_time() -> None:
    page = paragraph(90, width=2500, pitch=38)
    started = time.perf_counter()
    strips = split(page.resize((2500, 3500)))
    assert time.perf_counter() - started < 5
    assert line_count(strips) == 90


def test_texts_are_joined_by_their_glue() -> None:
    pixels = np.full((24, 256), 255, np.uint8)
    glues = ["", " ", "\n", "", "\n\n"]
    strips = [Strip(pixels=pixels, line=i, glue=glue, box=(0, 0, 1, 1)) for i, glue in enumerate(glues)]
    assert join_strips(strips, ["one", "two", "thr", "ee", "four"]) == "one two\nthree\n\nfour"
    assert join_strips(strips, ["one ", "", "", "", " four"]) == "one\n\nfour"
    assert join_strips(strips, ["", "", "", "", "four"]) == "four"
    assert join_strips([], []) == ""


def test_planes_are_ink_and_places() -> None:
    pixels = np.full((2, 24, 64), 255, np.uint8)
    pixels[1, 3, 5] = 0
    planes = strip_planes(pixels)
    assert planes.shape == (2, PLANES, 24, 64)
    assert planes.dtype == np.float32
    assert planes[:, 0].sum() == 1 and planes[1, 0, 3, 5] == 1
    assert np.array_equal(planes[0, 1:], planes[1, 1:])
    assert np.array_equal(strip_planes(pixels[:, :, :32])[:, 1:], planes[:, 1:, :, :32])


@pytest.mark.parametrize(("text", "ink"), [("Potato", 0), ("7", 0), ("1", 90), ("Secret!", 200)])
def test_a_word_alone_on_a_large_page_is_found(text: str, ink: int) -> None:
    """It is far less than a hundredth of the page's pixels."""
    image = blank(1650, 2200)
    write(image, (800, 1000), text, 30, ink)
    (strip,) = split(image)
    left, top, right, bottom = strip.box
    assert 790 < left < right < 960 and 1000 < top < bottom < 1050


def test_a_few_specks_on_a_page_are_no_line() -> None:
    page = np.full((1200, 900), 255, np.uint8)
    page[100::300, 100::200] = 0
    assert split(Image.fromarray(page)) == []
