"""What every measurement needs: pages, times, memory, and decoding that never ends early."""

from __future__ import annotations

import functools
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def picture(seed: int) -> Any:
    """A page of grey lines, different for every seed."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    pixels = np.full((1123, 794, 3), 255, np.uint8)
    for top in range(60, 1060, 20):
        pixels[top : top + 9, 60 : int(random.integers(400, 730))] = int(random.integers(0, 90))
    return Image.fromarray(pixels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """Seconds until the first token and until the last, and what the first row said."""

    first: float
    seconds: float
    tokens: tuple[int, ...]

    @property
    def pace(self) -> float:
        """Tokens a second behind the first one."""
        return (len(self.tokens) - 1) / (self.seconds - self.first)


def decode(model: Any, inputs: list[Any], tokens: int) -> Decoded:
    """Say exactly `tokens` tokens for each row, as the server does but for ends and loops: random weights know no end."""
    import threading

    from ocr_mlx.domain import DecodeParams
    from ocr_mlx.inference.batch import DecodeBatch
    from ocr_mlx.inference.guard import LoopWatch
    from ocr_mlx.inference.stopping import Row

    class Blind(LoopWatch):
        def update(self, tokens: Any, max_logit: float) -> None:
            return None

    batch = DecodeBatch(model)
    said: list[Any] = []
    params, never = DecodeParams(max_new_tokens=tokens), threading.Event()
    options: Any = {"on_text": lambda *_: None, "on_done": said.append, "cancel": never}
    rows = [Row(model, row, params, **options) for row in inputs]
    for row in rows:
        row._eos, row._watch = frozenset(), Blind(lambda: None, tokens)
    started = time.perf_counter()
    batch.join(rows)
    first = time.perf_counter() - started
    while batch.rows:
        batch.step()
    seconds = time.perf_counter() - started
    if any(len(outcome.tokens) != tokens for outcome in said):
        raise RuntimeError("a row ended early; the figure would be wrong")
    return Decoded(first=first, seconds=seconds, tokens=said[0].tokens)


def median_of(runs: int, function: Any) -> float:
    """Median seconds of some calls."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def timed(owner: Any, name: str, finish: Callable[[Any], None] = lambda _out: None) -> list[float]:
    """From now on, the seconds of each call of that function, `finish` of its answer included."""
    call, seconds = getattr(owner, name), []

    @functools.wraps(call)  # transformers looks at the signature
    def clocked(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        out = call(*args, **options)
        finish(out)
        seconds.append(time.perf_counter() - started)
        return out

    setattr(owner, name, clocked)
    return seconds


def peak_mb() -> float:
    """This process's largest resident size so far; on Linux not its parent's, which `getrusage` would begin with."""
    return _status_mb("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def resident_mb() -> float:
    """This process's resident size now; elsewhere than on Linux the largest so far."""
    return _status_mb("VmRSS") or peak_mb()


def _status_mb(name: str) -> float:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:")), 0.0)
