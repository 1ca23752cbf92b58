"""Any family at its published size: one A4 page through ours and through transformers, the same weights and pixels.

A family is a module `scripts/references/_bench_<name>.py` with

    checkpoint(folder, tiny)    writes a folder that both sides read; `tiny` for trying the script
    vision(graph)               the object and its function that reads a row's pictures
    load(folder)                transformers' model in float32, ready to use
    given(model, row)           what its `generate` takes; `row` has our token ids as `ids`, our `pixels` and extras
    tower(model)                transformers' object and function that read the pictures
    process(folder, image)      transformers' image processor; left out where there is none
    UNREAD, EXPERTS             what a decode step does not read, and what only in part (`memory.step_megabytes`)

and, where mlx-vlm has the model, what `vlm` says.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

from scripts.benchmark.common import decode, median_of, peak_mb, resident_mb, timed
from scripts.benchmark.memory import read_speeds, step_figures, step_megabytes

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = ROOT / "scripts" / "references"
COMPARED = 4
"""Tokens of each side that are compared."""
A4 = (8.27, 11.69)
"""In inches."""
ROWS = (
    ("first_token_seconds", "first token from prepared pixels, s"),
    ("processor_seconds", "processor, s"),
    ("vision_seconds", "vision, s"),
    ("prefill_seconds", "prefill without vision, s"),
    ("tokens_per_second", "tokens/s"),
    ("prompt_tokens", "tokens in the prompt"),
    ("load_seconds", "loading, s"),
    ("stored_mb", "weights on disk, MB"),
    ("weights_mb", "weights in memory, MB"),
    ("load_peak", "peak while loading / weights"),
    ("peak_mb", "peak memory, MB"),
)


def names() -> list[str]:
    """The families that can be measured."""
    return sorted(path.stem.removeprefix("_bench_") for path in REFERENCES.glob("_bench_*.py"))


def hooks(family: str) -> Any:
    """The family's module."""
    for folder in (ROOT / "scripts", ROOT):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(f"references._bench_{family}")


def make(family: str, folder: Path, tiny: bool) -> None:
    """The checkpoint, unless it is there."""
    if not (folder / "made").exists():
        folder.mkdir(parents=True, exist_ok=True)
        hooks(family).checkpoint(folder, tiny)
        (folder / "made").touch()


def page(dpi: float, paper: float = 1.0) -> Any:
    """A page of dark lines at that resolution, its sides that share of A4's."""
    import numpy as np
    from PIL import Image

    width, height = (round(side * paper * dpi) for side in A4)
    random = np.random.default_rng(1)
    pixels = np.full((height, width, 3), 255, np.uint8)
    line, margin = round(dpi / 6), round(dpi * 0.8)
    for top in range(margin, height - margin, line):
        pixels[top : top + line // 2, margin : width - int(random.integers(margin, width // 2))] = random.integers(90)
    return Image.fromarray(pixels)


def child_ours(family: str, folder: Path, tokens: int, mode: str, paper: float = 1.0) -> dict[str, Any]:
    """Load, prepare, see, prefill, decode; leaves the row for the other side. 0 `tokens` measure loading alone."""
    from ocr_mlx.utils.blas import blas_in_use, load_blas

    load_blas(True)
    import mlx.core as mx

    from ocr_mlx.domain import ModelRef, Page, Prompt
    from ocr_mlx.model.load import load_model

    own = hooks(family)
    mx.eval(mx.zeros(1))
    before, started = resident_mb(), time.perf_counter()
    model = load_model(ModelRef(id="bench", path=folder), dtype="float32")
    loaded, load_peak = time.perf_counter() - started, peak_mb() - before
    loading = {
        "load_seconds": loaded,
        "stored_mb": sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6,
        "weights_mb": model.bytes / 1e6,
        "load_peak": load_peak / (model.bytes / 1e6),
    }
    if not tokens:
        return loading
    image = page(model.processor.dpi, paper)
    image.save(folder / "page.png")
    whole = Page(index=0, image=image, width=image.width, height=image.height, dpi=model.processor.dpi, origin="image")
    preset = model.family.modes[mode or model.family.default_mode]
    [row, *others] = model.processor.prepare(whole, Prompt(), preset).rows
    if others:
        raise RuntimeError(f"{family} cuts a page into {1 + len(others)} rows; the figures would be those of one")
    _keep(row, folder)

    seeing = timed(*own.vision(model.graph), finish=mx.eval)
    said = decode(model, [row], tokens)
    vision = sum(seeing)
    peak = peak_mb()
    unread, experts = getattr(own, "UNREAD", ()), getattr(own, "EXPERTS", "")
    return {
        "blas": blas_in_use(),
        "step": step_figures(step_megabytes(folder, unread, experts), read_speeds(), 1 / said.pace),
        "first_tokens": said.tokens[:COMPARED],
        "first_token_seconds": said.first,
        "processor_seconds": median_of(3, lambda: model.processor.prepare(whole, Prompt(), preset)),
        "vision_seconds": vision,
        "prefill_seconds": said.first - vision,
        "tokens_per_second": said.pace,
        "prompt_tokens": len(row.token_ids),
        "peak_mb": peak,
    } | loading


def child_torch(family: str, folder: Path, tokens: int) -> dict[str, Any]:
    """The same row through transformers, as its users would run it."""
    import torch
    import transformers
    from PIL import Image
    from safetensors.numpy import load_file

    own = hooks(family)
    transformers.PreTrainedModel  # noqa: B018 - imported here, so that it does not count as loading
    before, started = resident_mb(), time.perf_counter()
    model = own.load(folder).eval()
    loaded, load_peak = time.perf_counter() - started, peak_mb() - before
    weights = sum(p.nbytes for p in model.parameters()) / 1e6
    loading = {"load_seconds": loaded, "weights_mb": weights, "load_peak": load_peak / weights}
    if not tokens:
        return loading
    given = own.given(model, load_file(folder / "row.st"))

    times: list[float] = []

    def note(ids: Any, scores: Any) -> Any:
        times.append(time.perf_counter())
        return scores

    seeing = timed(*own.tower(model))
    with torch.inference_mode():
        times.append(time.perf_counter())
        options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "use_cache": True}
        out = model.generate(**given, max_new_tokens=tokens, logits_processor=[note], **options)
    if len(times) != tokens + 1:
        raise RuntimeError("torch ended early; the figure would be wrong")
    first, seconds, vision = times[1] - times[0], times[-1] - times[0], sum(seeing)
    image = Image.open(folder / "page.png").convert("RGB")
    process = getattr(own, "process", None)
    return {
        "first_tokens": out[0, -tokens:].tolist()[:COMPARED],
        "first_token_seconds": first,
        "processor_seconds": median_of(3, lambda: process(folder, image)) if process else None,
        "vision_seconds": vision,
        "prefill_seconds": first - vision,
        "tokens_per_second": (tokens - 1) / (seconds - first),
        "peak_mb": peak_mb(),
    } | loading


def report(figures: dict[str, dict[str, Any]]) -> str:
    """A table for each family: ours beside the others."""
    lines = []
    for family, sides in figures.items():
        columns = {name: column for name, column in sides.items() if name != "step"}
        lines += ["", f"| {family}, random weights, float32, one page | {' | '.join(columns)} |"]
        lines.append("|---|" + "---|" * len(columns))
        for key, title in ROWS:
            cells = [_cell(column.get(key)) for column in columns.values()]
            lines.append(f"| {title} | {' | '.join(cells)} |")
        lines += [
            "",
            *(f"- {name}: {note}" for name, column in columns.items() if (note := _note(column, columns["ours"]))),
        ]
    return "\n".join(lines)


def _note(column: dict[str, Any], ours: dict[str, Any]) -> str:
    """Why a column has no figures; or that it says other tokens than ours, so that one of the two is not the model."""
    if column.get("first_tokens", ours.get("first_tokens")) != ours.get("first_tokens"):
        return f"says other tokens than ours: {column['first_tokens']}, not {list(ours['first_tokens'])}"
    return str(column.get("note", ""))


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _keep(row: Any, folder: Path) -> None:
    """The row as arrays, under a name that no loader takes for weights."""
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {"ids": np.array(row.token_ids, np.int64), "pixels": row.pixels}
    arrays |= {name: np.asarray(value) for name, value in row.extras.items()}
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, folder / "row.st")
