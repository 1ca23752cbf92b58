"""Cut a page into strips of one line each, and join their texts again.

Everything here works on ink: a boolean array [rows, columns], true where the page is clearly darker than its ground.
Lines are runs of rows with ink, columns are parted by a white gutter, long lines are cut at the white between words.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ocr_mlx.model.families.nougat.ink import (
    Grey,
    Ink,
    Span,
    find_ink,
    find_slope,
    marked,
    sheared,
    spans,
    without_rules,
)

Box = tuple[int, int, int, int]
Block = tuple[Span, list[Span]]

WAVELENGTHS = (512, 256, 128, 64, 32, 16)
SMALL = 20
BICUBIC = Image.Resampling.BICUBIC
PLANES = 2 + 2 * len(WAVELENGTHS)


@dataclass(frozen=True, kw_only=True, slots=True)
class StripSettings:
    """Sizes of a strip in its own pixels, gaps in shares of the line's height, `page_side` in pixels of the page."""

    height: int = 24
    width: int = 256
    text_height: int = 18
    margin: int = 4
    word_gap: float = 0.16
    break_gap: float = 2.5
    paragraph_gap: float = 0.9
    page_side: int = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """One picture of at most one line.

    `pixels` is uint8 [height, width], dark on white. `glue` joins its text to the text before: "" at the first strip
    and inside a word, " " between words, a line feed before a new line, two before a new paragraph or column.
    `box` is (left, top, right, bottom) in pixels of the page; `line` counts the page's lines from 0.
    """

    pixels: Grey
    line: int
    glue: str
    box: Box


def split_page(image: Image.Image, settings: StripSettings) -> list[Strip]:
    """Find the lines of a page in reading order and cut them into strips; [] when nothing is printed on it."""
    page, shrink = page_grey(image, settings.page_side)
    slope = find_slope(find_ink(page))
    if slope:
        page = sheared(page, slope)
    ink = find_ink(page)
    if line_height(ink) < SMALL:
        ink = find_ink(page, contrast=0.3, neighbours=0)
    if not ink.any():
        return []
    page, ink = without_rules(page, ink)
    page = np.pad(page, 1, constant_values=np.uint8(np.median(page)))
    typical = line_height(ink)
    strips: list[Strip] = []
    line = 0
    for (start, end), lines in find_blocks(ink, (0, ink.shape[1]), find_lines(ink, typical), typical):
        leads = line_leads(lines, settings.paragraph_gap * typical)
        for (top, bottom), lead in zip(lines, leads, strict=True):
            tall = max(bottom - top, round(0.7 * typical))
            glue = lead if strips else ""
            for (left, right), joint in cut_line(ink[top:bottom, start:end], tall, settings):
                box = start + left, top, start + right, bottom
                pixels = draw_strip(page, box, tall, settings)
                strips.append(Strip(pixels=pixels, line=line, glue=glue, box=page_box(box, shrink, slope)))
                glue = joint
            line += 1
    return strips


def join_strips(strips: Sequence[Strip], texts: Sequence[str]) -> str:
    """Put the texts of a page's strips together, each behind its glue."""
    return tidy("".join(strip.glue + text for strip, text in zip(strips, texts, strict=True)))


def tidy(text: str) -> str:
    """Strips without text leave spaces and empty lines behind: those go, and nothing else."""
    lines = (" ".join(part for part in line.split(" ") if part) for line in text.split("\n"))
    return re.sub("\n{3,}", "\n\n", "\n".join(lines).strip())


def strip_planes(pixels: Grey) -> NDArray[np.float32]:
    """The graph's input, float32 [strips, 14, height, width], for uint8 [strips, height, width].

    Plane 0 is ink from 0 (white) to 1 (black). The others say where a pixel is, which Swin alone could not know: sine
    and cosine of x at wavelengths of 512, 256 ... 16 pixels, and y from -1 to 1.
    """
    count, height, width = pixels.shape
    planes = np.empty((count, PLANES, height, width), np.float32)
    planes[:, 0] = 1 - pixels.astype(np.float32) / 255
    x = np.arange(width, dtype=np.float32)
    for index, wavelength in enumerate(WAVELENGTHS):
        planes[:, 1 + 2 * index] = np.sin(x * (2 * np.pi / wavelength))
        planes[:, 2 + 2 * index] = np.cos(x * (2 * np.pi / wavelength))
    planes[:, -1] = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return planes


def page_grey(image: Image.Image, longest: int) -> tuple[Grey, float]:
    """The page as grey on light ground, no side above `longest`, and page pixels per pixel of it."""
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    shrink = max(1.0, max(image.size) / longest)
    grey = image.convert("L")
    grey.thumbnail((longest, longest), Image.Resampling.BOX)
    page = np.asarray(grey, np.uint8)
    return (page if np.median(page) >= 128 else 255 - page), shrink


def line_height(ink: Ink) -> int:
    """The usual height of a line in pixels, from upright slices so that columns and slight slopes do not matter."""
    found: list[tuple[int, int]] = []
    for piece in np.array_split(ink, max(1, min(12, ink.shape[1] // 120)), axis=1):
        counts = piece.sum(1)
        found += [(end - top, int(counts[top:end].sum())) for top, end in spans(counts > 0) if end - top >= 5]
    if not found:
        return len(ink)
    found.sort()
    total = np.cumsum([weight for _, weight in found])
    return found[int(np.searchsorted(total, total[-1] / 2))][0]


def stroke(ink: Ink) -> float:
    """The mean length of the runs of ink along the rows: about the thickness of the print."""
    starts = int(ink[:, 0].sum()) + int((ink[:, 1:] > ink[:, :-1]).sum())
    return float(ink.sum()) / max(1, starts)


def find_lines(ink: Ink, typical: int) -> list[Span]:
    """The lines (top, bottom) of one column, from the top: runs of inked rows, parted where they touch."""
    runs = join_marks(spans(marked(ink, 1)), typical)
    usual = stroke(ink)
    lines = [line for run in runs for line in part_lines(ink, run, typical, usual)]
    return [(top, bottom) for top, bottom in lines if is_print(ink[top:bottom], typical)]


def is_print(ink: Ink, typical: int) -> bool:
    """Whether these rows are as high as print, or as wide as a dash, and not so much higher than thick as grain is."""
    columns = marked(ink, 0)
    if len(ink) < max(3, typical // 5) and np.count_nonzero(columns) < typical // 2:
        return False
    return len(ink) <= 40 * stroke(ink) or float(columns.mean()) <= 0.9


def join_marks(runs: list[Span], typical: int) -> list[Span]:
    """Put low runs such as dots and accents to the line that is next to them."""
    joined: list[Span] = []
    for top, bottom in runs:
        if joined:
            above = joined[-1]
            low = min(bottom - top, above[1] - above[0]) < 0.45 * typical
            if low and top - above[1] <= 0.3 * typical and bottom - above[0] <= 1.65 * typical:
                joined[-1] = above[0], bottom
                continue
        joined.append((top, bottom))
    return joined


def part_lines(ink: Ink, run: Span, typical: int, usual: float) -> Iterator[Span]:
    """Part a run too high for one line at its emptiest row; large print has thick strokes and is left whole."""
    top, bottom = run
    counts = ink[top:bottom].sum(1)
    edge = max(3, round(0.6 * typical))
    inner = counts[edge:-edge]
    if bottom - top < 1.6 * typical or not len(inner):
        yield run
        return
    valley = int(inner.argmin())
    clear = 0.25 if stroke(ink[top:bottom]) < 1.4 * usual else 0.03
    if inner[valley] > clear * np.percentile(counts, 80):
        yield run
        return
    middle = top + edge + valley
    yield from part_lines(ink, (top, middle), typical, usual)
    yield from part_lines(ink, (middle, bottom), typical, usual)


def find_blocks(ink: Ink, columns: Span, lines: list[Span], typical: int) -> Iterator[Block]:
    """Part the lines inside `columns` into blocks (columns, lines), a gutter's left side before its right side."""
    left, right = columns
    start = at = 0
    while at < len(lines):
        count, gutter = find_gutter(ink[:, left:right], lines[at:], typical)
        if count and start < at:
            yield columns, lines[start:at]
        if count:
            top, bottom = lines[at][0], lines[at + count - 1][1]
            for side in ((left, left + gutter), (left + gutter, right)):
                inner = find_lines(ink[top:bottom, slice(*side)], typical)
                yield from find_blocks(ink, side, [(a + top, b + top) for a, b in inner], typical)
            start = at + count
        at += max(1, count)
    if start < at:
        yield columns, lines[start:]


def find_gutter(ink: Ink, lines: list[Span], typical: int) -> tuple[int, int]:
    """How many of the first lines stand in columns, and the column of pixels that parts them; (0, 0) when none do."""
    inked = np.zeros(ink.shape[1], np.bool_)
    best = 0, 0
    for count, (top, bottom) in enumerate(lines, 1):
        inked |= ink[top:bottom].any(0)
        gaps = [gap for gap in spans(~inked) if gap[1] - gap[0] >= typical]
        if not gaps:
            break
        used = np.flatnonzero(inked)
        inner = [gap for gap in gaps if used[0] < gap[0] and gap[1] <= used[-1]]
        if inner and bottom - lines[0][0] >= 5 * typical:
            gap = max(inner, key=lambda gap: gap[1] - gap[0])
            best = count, (gap[0] + gap[1]) // 2
    rows = slice(lines[0][0], lines[best[0] - 1][1])
    sides = (ink[rows, : best[1]], ink[rows, best[1] :])
    return best if best[0] and all(is_prose(side, typical) for side in sides) else (0, 0)


def is_prose(ink: Ink, typical: int) -> bool:
    """Whether this looks like a column of running text: wide enough, and most of its lines filled."""
    used = np.flatnonzero(ink.any(0))
    lines = find_lines(ink, typical)
    if len(lines) < 3 or used[-1] - used[0] < 6 * typical:
        return False
    inked = [np.flatnonzero(ink[top:bottom].any(0)) for top, bottom in lines]
    return float(np.mean([row[-1] - row[0] for row in inked if len(row)])) > 0.55 * float(used[-1] - used[0])


def line_leads(lines: list[Span], paragraph: float) -> list[str]:
    """What stands before each line of a block: two line feeds at its start and after uncommonly much white, or one."""
    whites = [after[0] - before[1] for before, after in pairwise(lines)]
    limit = max(paragraph, 1.5 * float(np.median(whites))) if whites else paragraph
    return ["\n\n", *("\n\n" if white > limit else "\n" for white in whites)]


def cut_line(ink: Ink, tall: int, settings: StripSettings) -> Iterator[tuple[Span, str]]:
    """The columns (left, right) of a line's strips, each with what joins the next strip to it: " " or ""."""
    runs = spans(marked(ink, 0))
    longest = max(4, int((settings.width - 2 * settings.margin) * tall / settings.text_height))
    word = word_gap(runs, settings.word_gap * tall, tall)
    start = 0
    for index in range(1, len(runs) + 1):
        if index == len(runs) or runs[index][0] - runs[index - 1][1] > settings.break_gap * tall:
            yield from cut_segment(ink, runs[start:index], longest, word)
            start = index


def word_gap(runs: list[Span], least: float, tall: int) -> float:
    """The white that parts words: more than `least`, and than the usual gap where letters stand apart."""
    gaps = [after[0] - before[1] for before, after in pairwise(runs)]
    if len(gaps) > 5 and (runs[-1][1] - runs[0][0]) / len(gaps) < 1.8 * tall:
        return max(least, 1.5 * float(np.median(gaps)))
    return least


def cut_segment(ink: Ink, runs: list[Span], longest: int, word: float) -> Iterator[tuple[Span, str]]:
    """Strips of about the same width, at most `longest`, for the runs of inked columns between two wide gaps."""
    left, right = runs[0][0], runs[-1][1]
    gaps = [(before[1], after[0]) for before, after in pairwise(runs)]
    while right - left > longest:
        aim = left + (right - left) / math.ceil((right - left) / longest)
        near = [gap for gap in gaps if (3 * left + aim) / 4 < gap[0] <= left + longest]
        widest = max((gap[1] - gap[0] for gap in near), default=0)
        wide = [gap for gap in near if gap[1] - gap[0] >= (0.7 if widest >= word else 0.5) * widest]
        if wide:
            end, following = min(wide, key=lambda gap: abs(gap[0] - aim))
        else:
            start = left + longest * 3 // 4
            end = following = start + int(ink[:, start : left + longest].sum(0).argmin())
        yield (left, end), " " if widest >= word else ""
        left = following
    yield (left, right), " "


def draw_strip(page: Grey, box: Box, tall: int, settings: StripSettings) -> Grey:
    """The box, and a pixel around it, of a page with one more pixel at each side, scaled by its line's height."""
    left, top, right, bottom = box
    piece = page[top : bottom + 2, left : right + 2]
    scale = settings.text_height / max(6, tall)
    width = min(settings.width - settings.margin, max(1, round(piece.shape[1] * scale)))
    height = min(settings.height, max(1, round(piece.shape[0] * scale)))
    small = np.asarray(Image.fromarray(piece).resize((width, height), BICUBIC), np.float32)
    strip = np.full((settings.height, settings.width), 255, np.uint8)
    row = (settings.height - height) // 2
    strip[row : row + height, settings.margin : settings.margin + width] = full_contrast(small)
    return strip


def full_contrast(grey: NDArray[np.float32]) -> Grey:
    """Stretch grey to white ground and black ink; a piece that is mostly dark is light print and is inverted."""
    if np.median(grey) < (grey.min() + grey.max()) / 2 - 8 and np.mean(grey[[0, -1]]) < 128:
        grey = 255 - grey
    dark, ground = (float(value) for value in np.percentile(grey, (1, 90)))
    spread = max(48.0, ground - dark)
    full: Grey = np.clip((grey - ground + spread) * (255 / spread), 0, 255).astype(np.uint8)
    return full


def page_box(box: Box, shrink: float, slope: float) -> Box:
    """A box of the shrunk and straightened page in pixels of the page itself."""
    left, top, right, bottom = (shrink * value for value in box)
    near, far = sorted((slope * left, slope * right))
    return round(left), max(0, round(top + near)), round(right), max(0, round(bottom + far))
