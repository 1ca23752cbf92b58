"""The built-in model reads pages and strips to the same text alone and in a crowd."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from ocr_mlx.domain import DecodeParams, ModelRef, Page, Prompt
from ocr_mlx.inference.stopping import RowOutcome
from ocr_mlx.model.base import LoadedModel, find_mode
from ocr_mlx.model.load import load_model
from ocr_mlx.model.registry import builtin_folder
from tests.families import crowd
from tests.families.crowd import Guest

EXAMPLE = Path(__file__).parents[3] / "examples" / "page.png"
FONTS = Path("/usr/share/fonts/truetype")
INSTALLED = ("dejavu/DejaVuSans.ttf", "dejavu/DejaVuSerif.ttf", "liberation/LiberationSerif-Regular.ttf")
WORDS = (
    "the river was low and 1,204 boats lay idle; nobody asked why (at first) until Mr. Brown wrote: "
    "'prices rose by 7.5% in May' - a table of 36 rows, page 12, says otherwise. Quiet evenings, late trains"
).split()
PARAMS = DecodeParams(max_new_tokens=90)
WIDTH = 64
Outcomes = list[RowOutcome]
Strips = list[Guest]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(ModelRef(id="builtin", path=builtin_folder()))


def strips_of(model: LoadedModel, image: Image.Image) -> Strips:
    page = Page(index=0, image=image, width=image.width, height=image.height, dpi=None, origin="image")
    prepared = model.processor.prepare(page, Prompt(), find_mode(model.family, ""))
    return [Guest(inputs=row, params=PARAMS) for row in prepared.rows]


def written(number: int, font: str | None = None) -> Image.Image:
    """A page of some lines, of words and a size that its number chooses."""
    numbers = random.Random(number)
    size, lines = numbers.randint(16, 34), numbers.randint(2, 6)
    face = ImageFont.truetype(font, size) if font else ImageFont.load_default(size)
    image = Image.new("RGB", (700, 60 + lines * 2 * size), numbers.choice(["white", "#f4f0e4"]))
    for line in range(lines):
        text = " ".join(numbers.choices(WORDS, k=numbers.randint(3, 8)))
        ImageDraw.Draw(image).text((30, 30 + line * 2 * size), text, fill=numbers.choice([0, "#303030"]), font=face)
    return image


def read(model: LoadedModel, pages: Sequence[Strips], width: int | None, **plan: int) -> list[Outcomes]:
    """What each page's strips come to when all pages are read at once; `apart` steps lie between their beginnings."""
    apart = plan.get("apart", 0)
    guests = [
        Guest(inputs=strip.inputs, params=strip.params, comes=apart * number)
        for number, page in enumerate(pages)
        for strip in page
    ]
    found = iter(crowd.talk(model, guests, width, places=width or WIDTH))
    return [[next(found) for _ in page] for page in pages]


def deserted(model: LoadedModel, pages: Sequence[Strips], width: int | None, one: int) -> Outcomes:
    """What a page's strips come to among pages that leave after a few tokens."""
    brief = [
        page if i == one else [Guest(inputs=s.inputs, params=DecodeParams(max_new_tokens=1 + 3 * i)) for s in page]
        for i, page in enumerate(pages)
    ]
    return read(model, brief, width)[one]


def different(found: Outcomes, expected: Outcomes) -> int:
    """How many strips say something else; rounding may have decided nothing but ties."""
    other = [(a, b) for a, b in zip(found, expected, strict=True) if not crowd.same_words(a, b)]
    assert all(crowd.tied(a, b) for a, b in other)
    return len(other)


def check(model: LoadedModel, pages: list[Strips]) -> None:
    """Groups of eight pages in every way, with passes of one width and without."""
    ties = 0
    for start in range(0, len(pages), crowd.CROWD):
        group = pages[start : start + crowd.CROWD]
        plain = [read(model, [page], None)[0] for page in group]
        steady = [read(model, [page], WIDTH)[0] for page in group]
        one = start // crowd.CROWD % len(group)
        for apart in (0, 7):
            ties += sum(map(different, read(model, group, None, apart=apart), plain))
            assert read(model, group, WIDTH, apart=apart) == steady
        ties += different(deserted(model, group, None, one), plain[one])
        assert deserted(model, group, WIDTH, one) == steady[one]
    assert ties <= len(pages) // 30, "ties are rare"


@pytest.mark.slow
def test_pages_and_strips_read_the_same_in_a_crowd(model: LoadedModel) -> None:
    pages = [strips_of(model, written(number)) for number in range(3)]
    together = read(model, pages, None, apart=5)
    for page, found in zip(pages, together, strict=True):
        assert different(found, read(model, [page], None)[0]) == 0
        assert different(found[:1], read(model, [page[:1]], None)[0]) == 0
    steady = read(model, pages, 16, apart=5)
    assert steady[1] == read(model, pages[1:2], 16)[0]


@pytest.mark.slow
def test_sixty_pages_read_the_same_in_a_crowd(model: LoadedModel) -> None:
    images = [Image.open(EXAMPLE), *(written(number) for number in range(100, 163))]
    check(model, [strips_of(model, image) for image in images])


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_pages_in_other_letters_read_the_same_in_a_crowd(model: LoadedModel, name: str) -> None:
    if not (FONTS / name).exists():
        pytest.skip(f"the font {name} is not installed")
    check(model, [strips_of(model, written(number, str(FONTS / name))) for number in range(200, 208)])


@pytest.mark.slow
def test_a_hundred_strips_read_the_same_alone(model: LoadedModel) -> None:
    pages = [strips_of(model, written(number)) for number in range(300, 320)]
    strips = [strip for page in pages for strip in page][:100]
    crowded, steady = (read(model, [strips], width)[0] for width in (None, 8))
    alone = [read(model, [[strip]], None)[0][0] for strip in strips]
    assert different(crowded, alone) <= 1
    assert steady == [read(model, [[strip]], 8)[0][0] for strip in strips]
