"""Where a page's ink is: its slope, its rules, its runs along a row or a column."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Grey = NDArray[np.uint8]
Ink = NDArray[np.bool_]
Span = tuple[int, int]

MOST_SLOPE = 0.035


def find_ink(page: Grey, contrast: float = 0.4, neighbours: int = 2) -> Ink:
    """Where [rows, columns] of uint8 is clearly darker than the ground and, by its neighbours, no speck."""
    sample = page[:: max(1, page.shape[0] // 1000), :: max(1, page.shape[1] // 1000)]
    ground, dark = float(np.median(sample)), float(np.percentile(sample, 0.2))
    if ground - dark < 24:
        dark = darkest(page)  # a word alone is less than that share of a page
    if min(page.shape) < 4 or ground - dark < 24:
        return np.zeros(page.shape, np.bool_)
    padded = np.pad(page < ground - contrast * (ground - dark), 1).astype(np.uint8)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    around = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    ink: Ink = (padded[1:-1, 1:-1] > 0) & (around > neighbours)
    return ink


def darkest(page: Grey, pixels: int = 8) -> float:
    """The level that so many pixels are not lighter than."""
    counts = np.cumsum(Image.fromarray(page).histogram())
    return float(np.searchsorted(counts, min(pixels, page.size)))


def find_slope(ink: Ink) -> float:
    """Rows that lines sink per column, within 2 degrees; 0 when straight rows are as good."""
    every = 1 + ink.size // 2_000_000
    rows, columns = np.nonzero(ink[:, ::every])
    if len(rows) < 50:
        return 0.0
    some = slice(None, None, 1 + len(rows) // 30_000)
    rows, columns = rows[some], columns[some] * every
    limit = min(MOST_SLOPE, ink.shape[0] / (2 * ink.shape[1]))
    slopes = np.linspace(-limit, limit, 41)
    reach = math.ceil(limit * ink.shape[1]) + 1
    scores = [float((np.bincount((rows - slope * columns + reach).astype(np.int64)) ** 2.0).sum()) for slope in slopes]
    best = int(np.argmax(scores))
    return float(slopes[best]) if scores[best] > 1.06 * scores[len(slopes) // 2] else 0.0


def sheared(page: Grey, slope: float) -> Grey:
    """The page with every column moved up by `slope` times its place."""
    image = Image.fromarray(page)
    shear = 1, 0, 0, slope, 1, 0
    ground = int(np.median(page))
    return np.asarray(
        image.transform(image.size, Image.Transform.AFFINE, shear, Image.Resampling.BICUBIC, fillcolor=ground), np.uint8
    )


def without_rules(page: Grey, ink: Ink) -> tuple[Grey, Ink]:
    """Page and ink with long thin rules, across or down, painted over by the ground."""
    rules = long_runs(ink, max(80, ink.shape[1] // 12)) | long_runs(ink.T, max(80, ink.shape[0] // 12)).T
    if not rules.any():
        return page, ink
    halo = np.asarray(Image.fromarray(rules.astype(np.uint8)).filter(ImageFilter.MaxFilter(3))) > 0
    return np.where(halo, np.uint8(np.median(page)), page), ink & ~halo


def long_runs(ink: Ink, length: int) -> Ink:
    """Ink that belongs to a run of at least `length` columns and is at most a twentieth of that thick."""
    if ink.shape[1] < length:
        return np.zeros_like(ink)
    rows = np.flatnonzero(ink.sum(1) >= length)
    runs = np.zeros_like(ink)
    runs[rows] = opened(ink[rows], length)
    thick = length // 20
    if thick < ink.shape[0]:
        columns = np.flatnonzero(runs.sum(0) > thick)
        runs[:, columns] &= ~opened(runs[:, columns].T, thick + 1).T
    return runs


def opened(ink: Ink, length: int) -> Ink:
    """The part of each row that lies in unbroken runs of at least `length`."""
    sums = np.cumsum(np.pad(ink, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
    full = sums[:, length:] - sums[:, :-length] == length
    starts = np.cumsum(np.pad(full, ((0, 0), (1, length - 1))), axis=1, dtype=np.int32)
    starts = np.pad(starts, ((0, 0), (length, 0)))
    covered: Ink = starts[:, length + 1 :] - starts[:, 1:-length] > 0
    return covered[:, : ink.shape[1]]


def marked(ink: Ink, axis: int) -> Ink:
    """Which columns (axis 0) or rows (axis 1) hold any ink."""
    return np.asarray(ink.any(axis=axis), np.bool_)


def spans(marks: Ink) -> list[Span]:
    """The runs (start, end) of true values in one dimension."""
    edges = np.flatnonzero(np.diff(np.pad(marks, 1).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
