"""Batches of strips, drawn by a process of their own."""

import multiprocessing as mp
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from builtin.net import END, PAD, START
from builtin.render import Renderer
from builtin.text import SPECIAL, VOCABULARY, encode
from ocr_mlx.model.families.nougat.strips import StripSettings, strip_planes

POOL = 1536
STEP = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """Strips of about the same width: pixels [batch, height, width], ids [batch, length] from START to END and PADs."""

    pixels: NDArray[np.uint8]
    ids: NDArray[np.int64]

    def picture(self) -> Tensor:
        """The graph's input [batch, planes, height, width]."""
        return torch.from_numpy(strip_planes(self.pixels))


class Feed:
    """Draws ahead in `workers` processes; `width` (pixels of a strip) may be changed while they run."""

    def __init__(self, seed: int, pixels: int, workers: int) -> None:
        context = mp.get_context("spawn")
        self.width: Synchronized[int] = context.Value("i", StripSettings().width)
        self.queue: mp.Queue[Batch] = context.Queue(64)
        self.workers = [
            context.Process(target=draw, args=(seed + index, pixels, self.width, self.queue), daemon=True)
            for index in range(workers)
        ]
        for worker in self.workers:
            worker.start()

    def close(self) -> None:
        """End the drawing processes."""
        for worker in self.workers:
            worker.terminate()


def draw(seed: int, pixels: int, width: Any, queue: Any) -> None:
    """The body of a drawing process: batches of about `pixels` columns of pixels each, for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    renderer = Renderer(seed, StripSettings())
    strips = renderer.strips(lambda: width.value)
    while True:
        for batch in batches(list(islice(strips, POOL)), pixels, renderer.noise):
            queue.put(batch)


def batches(strips: list[tuple[NDArray[np.uint8], str]], pixels: int, noise: np.random.Generator) -> Iterator[Batch]:
    """Strips grouped by width, in random order; a quarter of the batches keep the white at their right."""
    strips = sorted(strips, key=lambda strip: inked_width(strip[0]))
    groups = []
    while strips:
        count = min(len(strips), pixels // (inked_width(strips[-1][0]) + STEP))
        groups.append(strips[-count:])
        del strips[-count:]
    for index in noise.permutation(len(groups)):
        group = groups[index]
        full = group[0][0].shape[1]
        used = max(inked_width(picture) for picture, _ in group) + int(noise.integers(4, STEP))
        if noise.random() < 0.25:
            group, used = group[: max(1, pixels // full)], full
        wide = min(full, -(-used // STEP) * STEP)
        yield Batch(np.stack([picture[:, :wide] for picture, _ in group]), pad([encode(text) for _, text in group]))


def inked_width(pixels: NDArray[np.uint8]) -> int:
    """The columns up to the last one that is not white."""
    used = np.flatnonzero((pixels < 230).any(0))
    return int(used[-1]) + 1 if len(used) else 8


def pad(rows: list[list[int]]) -> NDArray[np.int64]:
    """START, the row, END and as many PADs as the longest row asks for."""
    table = np.full((len(rows), max(map(len, rows)) + 2), PAD, np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row) + 2] = [START, *row, END]
    return table


def corrupt(ids: Tensor, part: float) -> Tensor:
    """Replace a part of the characters at random, so that the decoder looks at the picture instead of guessing."""
    chosen = (torch.rand(ids.shape, device=ids.device) < part) & (ids >= len(SPECIAL))
    return torch.where(chosen, torch.randint_like(ids, len(SPECIAL), len(VOCABULARY)), ids)
