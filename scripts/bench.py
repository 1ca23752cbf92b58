"""Measures what README quotes: how fast pages are read beside other ways to read them, and how the server holds a load.

    python scripts/bench.py                                  every part
    python scripts/bench.py --only nougat,batch              some parts
    python scripts/bench.py --torch-python PATH              and transformers on torch beside it (dependency group `reference`)
    python scripts/bench.py --peer-python PATH               and mlx-vlm beside it (`pip install mlx-vlm mlx[cpu]` somewhere)
    python scripts/bench.py --family NAME                    one family at its published size, one A4 page; or `all`
    python scripts/bench.py --tiny                           tries the script with tiny models: no figure means anything

| part | what |
|---|---|
| `start` | spawn to `/livez` beside a bare app, import time |
| `nougat` | Nougat-small's size: vision pass and decoding of one page, beside a plain port to MLX and transformers |
| `batch` | eight pages of `--page-tokens` tokens as one batch, beside one by one and transformers with batch 8 |
| `step` | a decode step beside reading its weights once at the memory's speed |
| `profile` | where the vision pass and a decode step spend their time |
| `blas` | the vision pass and decoding with the BLAS that mlx brings on Linux |
| `families` | LightOnOCR-2-1B, DeepSeek-OCR and GOT-OCR2 beside mlx-vlm and transformers, `--tokens` tokens |
| `server` | 8 requests at once beside the same server with a batch of one |
| `overhead` | what the server adds to a request |
| `livez` | how fast `/livez` answers meanwhile (`scripts/bench_server.py`) |

The checkpoints have the published sizes and random weights; the script makes them under `--out` (up to 7 GB each) and keeps
them. Sides have processes of their own, so that one's memory and threads do not colour another's, and take turns where both
fit. Compare within one run only, on a machine that does nothing else. Figures are kept as JSON in `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(REPO), str(REPO / "src")) if path not in sys.path]

from scripts import bench_server  # noqa: E402 - after the path
from scripts.benchmark import families, nougat, overhead, serving, tables, talk, targets, vlm  # noqa: E402
from scripts.benchmark.start import measure_start  # noqa: E402

PARTS = ("start", "nougat", "batch", "step", "profile", "blas", "families", "server", "overhead", "livez")
TABLE = ("lighton_ocr", "deepseek_ocr", "got_ocr2")
"""The families that the aims name."""
SLOW_TOKENS = 16
Options = argparse.Namespace


def command(python: str, kind: str, folder: Path, *more: str) -> list[str]:
    """One side, as a process of its own."""
    return [python, str(Path(__file__)), "--child", kind, "--out", str(folder), *more]


def environment() -> dict[str, str]:
    """Where a side finds this package."""
    return {**os.environ, "PYTHONPATH": str(REPO / "src")}


def run_child(python: str, kind: str, folder: Path, *more: str) -> dict[str, Any]:
    """Run one side to its end and read its figures."""
    output = subprocess.check_output(command(python, kind, folder, *more), env=environment(), text=True)
    figures: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return figures


def has(python: str, modules: str) -> bool:
    """Whether that interpreter can import them."""
    return bool(python) and subprocess.run([python, "-c", f"import {modules}"], capture_output=True).returncode == 0


def child(options: Options) -> None:
    """One side, in this process."""
    folder, family = options.out, options.family
    talking: dict[str, Callable[[], dict[str, talk.Call]]] = {
        "nougat": lambda: nougat.calls_ours(folder, blas=True, plain=True),
        "nougat-alone": lambda: nougat.calls_ours(folder, blas=True, plain=False),
        "nougat-slow": lambda: nougat.calls_ours(folder, blas=False, plain=False),
        "nougat-torch": lambda: nougat.calls_torch(folder),
    }
    ending: dict[str, Callable[[], dict[str, Any]]] = {
        "ours": lambda: families.child_ours(family, folder, options.tokens, options.mode, options.paper),
        "theirs": lambda: families.child_torch(family, folder, options.tokens),
        "vlm": lambda: vlm.child(family, folder, options.tokens),
        "overhead": lambda: overhead.measure(options.runs),
    }
    if options.child in talking:
        talk.answer(talking[options.child]())
    else:
        print(json.dumps(ending[options.child]()))


def measure_nougat(options: Options, parts: list[str]) -> dict[str, Any]:
    """One page beside the others, and a decode step beside its weights."""
    folder, found = checkpoint(options), {}
    with ExitStack() as sides:
        ours = sides.enter_context(talk.Child(command(sys.executable, "nougat", folder), environment()))
        if "nougat" in parts:
            torch = _torch(sides, folder, options)
            found["nougat"] = nougat.measure(ours, torch, tokens=options.short, rounds=options.rounds)
        if "profile" in parts:
            found["profile"] = ours.ask("profile")
        if "step" in parts:
            found["step"] = nougat.measure_step(ours, tokens=options.short // 2, rounds=options.rounds)
    return found


def measure_batch(options: Options) -> dict[str, Any]:
    """Eight pages; in processes of their own, whose largest size is that of the batch."""
    folder = checkpoint(options)
    with ExitStack() as sides:
        ours = sides.enter_context(talk.Child(command(sys.executable, "nougat-alone", folder), environment()))
        return nougat.measure_batch(ours, _torch(sides, folder, options), tokens=options.page_tokens)


def _torch(sides: ExitStack, folder: Path, options: Options) -> talk.Child | None:
    if not has(options.torch_python, "torch, transformers"):
        return None
    return sides.enter_context(talk.Child(command(options.torch_python, "nougat-torch", folder), environment()))


def measure_blas(options: Options) -> dict[str, Any]:
    """The vision pass and a few tokens with the BLAS that mlx brings."""
    folder = checkpoint(options)
    with talk.Child(command(sys.executable, "nougat-slow", folder), environment()) as slow:
        page = slow.ask("ours_rows", count=1, tokens=SLOW_TOKENS)
        pace = (SLOW_TOKENS - 1) / (page["seconds"] - page["first"])
        figures = {"first_token_seconds": page["first"], "tokens_per_second": pace}
        return figures | dict(slow.ask("about"))


def checkpoint(options: Options) -> Path:
    """Nougat of small's size, unless it is there."""
    folder: Path = options.out / f"nougat-small-{'tiny' if options.tiny else 'random'}"
    nougat.make_checkpoint(folder, options.tiny)
    return folder


def measure_family(family: str, options: Options) -> dict[str, Any]:
    """One family: ours, and the others where they can be run; each alone in memory."""
    folder = options.out / f"{family}-{'tiny' if options.tiny else 'random'}"
    families.make(family, folder, options.tiny)
    asked = ["--family", family, "--tokens", str(options.tokens), "--mode", options.mode]
    asked += ["--paper", str(options.paper)]
    figures: dict[str, Any] = {"ours": run_child(sys.executable, "ours", folder, *asked)}
    if step := figures["ours"].pop("step", None):
        figures["step"] = step
    if has(options.torch_python, "torch, transformers"):
        figures["transformers"] = run_child(options.torch_python, "theirs", folder, *asked)
    if options.tokens and has(options.peer_python, "mlx_vlm"):
        figures["mlx-vlm"] = run_child(options.peer_python, "vlm", folder, *asked)
    return figures


def measure_server(options: Options) -> list[dict[str, Any]]:
    """Eight requests at once: the built-in model and Nougat-small's size."""
    models = (serving.BUILTIN, str(checkpoint(options)))
    return [serving.crowd(model, options.server_tokens) for model in models]


def measure_livez(options: Options) -> dict[str, Any]:
    """`/livez` while the same two models read."""
    models = {"built-in": serving.BUILTIN, "nougat-small size": str(checkpoint(options))}
    load = {"seconds": options.livez_seconds, "clients": serving.CLIENTS, "every": 0.02}
    return {name: bench_server.measure(model, **load) for name, model in models.items()}


def measure(options: Options, parts: list[str]) -> dict[str, Any]:
    """All figures of those parts; each part is told about on standard error as it begins."""
    chosen = {"all": families.names(), "": TABLE}.get(options.family, [options.family])
    shared = [part for part in parts if part in ("nougat", "step", "profile")]
    ways: dict[str, Callable[[], Any]] = {
        "start": lambda: measure_start(options.runs),
        "batch": lambda: measure_batch(options),
        "blas": lambda: measure_blas(options),
        "families": lambda: {family: measure_family(family, options) for family in chosen},
        "server": lambda: measure_server(options),
        "overhead": lambda: run_child(sys.executable, "overhead", options.out, "--runs", str(options.pairs)),
        "livez": lambda: measure_livez(options),
    }
    plan: dict[str, Callable[[], dict[str, Any]]] = {", ".join(shared): partial(measure_nougat, options, shared)}
    plan |= {part: lambda part=part: {part: ways[part]()} for part in parts if part in ways}  # type: ignore[misc]
    figures: dict[str, Any] = {}
    for name, way in plan.items():
        if name:
            began = time.perf_counter()
            print(f"measuring {name}", file=sys.stderr, flush=True)
            figures |= way()
            print(f"measured {name} in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return figures


def main() -> int:
    """Measure what was asked for, print it, keep it as JSON."""
    options = _options()
    if options.child:
        child(options)
        return 0
    parts = ["families"] if options.family else options.only
    figures = {"machine": _machine(options)} | measure(options, parts)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / (f"figures-{options.family}.json" if options.family else "figures.json")
    file.write_text(json.dumps(figures, indent=1))
    print(f"{figures['machine']}\n\n{targets.report(figures)}\n{tables.report(figures)}")
    return 0


def _machine(options: Options) -> str:
    paper = f", families' pages {options.paper:g} of A4" if options.paper != 1.0 else ""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"{time.strftime('%Y-%m-%d')}, {machine}{', TINY MODELS' if options.tiny else ''}{paper}"


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if wrong := [part for part in parts if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"there is no part {wrong[0]!r}; choose from {', '.join(PARTS)}")
    return [part for part in PARTS if part in parts]


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, default=REPO / "bench-output", help="checkpoints and figures (%(default)s)")
    add("--only", type=_parts, default=list(PARTS), metavar="PARTS", help="measure only these, joined by commas")
    add("--family", default="", choices=["", "all", *families.names()], help="measure this family and nothing else")
    add("--paper", type=float, default=1.0, help="a family's page: its sides as a share of A4's (%(default)s)")
    add("--mode", default="", help="the family's mode; without it, its default one")
    add("--tokens", type=int, default=48, help="tokens to decode for a family (%(default)s); 0 measures loading alone")
    add("--page-tokens", type=int, default=800, help="tokens of a page in `batch` (%(default)s)")
    add("--short", type=int, default=128, help="tokens of a page in `nougat` (%(default)s)")
    add("--rounds", type=int, default=3, help="turns of each side in `nougat` and `step` (%(default)s)")
    add("--server-tokens", type=int, default=116, help="tokens of a page in `server` (%(default)s)")
    add("--livez-seconds", type=float, default=30.0, help="load of each model in `livez` (%(default)s)")
    add("--pairs", type=int, default=40, help="pairs in `overhead` (%(default)s)")
    add("--runs", type=int, default=7, help="runs of `start` (%(default)s)")
    add("--tiny", action="store_true", help="tiny models, to try the script")
    add("--torch-python", default=sys.executable, help="an interpreter with torch and transformers")
    add("--peer-python", default=sys.executable, help="an interpreter with mlx-vlm")
    add("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
