"""Measures what README quotes: start-up, pages of a full-size Nougat, memory, with and without OpenBLAS; and every family.

    python scripts/bench.py                                  start-up and Nougat, one page and eight
    python scripts/bench.py --torch-python PATH              and transformers on torch beside it (dependency group `reference`)
    python scripts/bench.py --only start                     one part
    python scripts/bench.py --family all                     each family at its published size, one A4 page
    python scripts/bench.py --family NAME --tiny             tries the script with a tiny model: no figure means anything

The checkpoints have the published sizes and random weights; the script makes them under `--out` (up to 7 GB each) and keeps
them. Every figure is taken in a process of its own, so that one part's memory and threads do not colour another's. Compare
within one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(REPO), str(REPO / "src")) if path not in sys.path]

from scripts.benchmark import families, nougat  # noqa: E402 - after the path
from scripts.benchmark.start import measure_start  # noqa: E402

NOUGAT = ("first_token_seconds", "tokens_per_second", "pages_per_second", "batch_pages_per_second", "load_seconds")


def run_child(python: str, kind: str, folder: Path, *more: str) -> dict[str, Any]:
    """Run one part in its own process and read its figures."""
    command = [python, str(Path(__file__)), "--child", kind, "--out", str(folder), *more]
    environment = {**os.environ, "PYTHONPATH": str(REPO / "src")}
    output = subprocess.check_output(command, env=environment, text=True)
    figures: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return figures


def has_torch(python: str) -> bool:
    """Whether that interpreter can run the reference."""
    return subprocess.run([python, "-c", "import torch, transformers"], capture_output=True).returncode == 0


def child(options: argparse.Namespace) -> dict[str, Any]:
    """One part, in this process."""
    folder, family = options.out, options.family
    if options.child == "ours":
        return families.child_ours(family, folder, options.tokens, options.mode)
    if options.child == "theirs":
        return families.child_torch(family, folder, options.tokens)
    if options.child == "torch":
        return nougat.child_torch(folder)
    return nougat.child_ours(folder, options.child == "openblas")


def measure_nougat(options: argparse.Namespace) -> dict[str, Any]:
    """Nougat-small in every way there is here."""
    folder = options.out / "nougat-small-random"
    nougat.make_checkpoint(folder)
    figures = {kind: run_child(sys.executable, kind, folder) for kind in ("openblas", "reference-blas")}
    if has_torch(options.torch_python):
        figures["torch"] = run_child(options.torch_python, "torch", folder)
    return figures


def measure_family(family: str, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """One family: ours, and transformers where there is torch."""
    folder = options.out / f"{family}-{'tiny' if options.tiny else 'random'}"
    families.make(family, folder, options.tiny)
    asked = ["--family", family, "--tokens", str(options.tokens), "--mode", options.mode]
    figures = {"ours": run_child(sys.executable, "ours", folder, *asked)}
    if has_torch(options.torch_python):
        figures["transformers"] = run_child(options.torch_python, "theirs", folder, *asked)
    return figures


def report(figures: dict[str, Any]) -> str:
    """The figures as markdown."""
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    ]
    if start := figures.get("start"):
        lines.append(
            f"- spawn to /livez {start['livez_seconds']:.2f} s, bare FastAPI + uvicorn {start['bare_seconds']:.2f} s, "
            f"ratio {start['ratio']:.2f}; import ocr_mlx {start['import_ms']:.0f} ms"
        )
    columns = {key: value for key, value in figures.items() if key not in ("start", "families")}
    if columns:
        lines += ["", "| nougat-small, random weights, float32 | " + " | ".join(columns) + " |"]
        lines.append("|---|" + "---|" * len(columns))
    for name in (*NOUGAT, "weights_mb", "peak_mb") if columns else ():
        cells = [f"{c[name]:.3g}" if c.get(name) else "-" for c in columns.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + families.report(figures.get("families", {}))


def main() -> int:
    """Measure what was asked for, print it, keep it as JSON."""
    options = _options()
    if options.child:
        print(json.dumps(child(options)))
        return 0
    figures: dict[str, Any] = {}
    if options.family:
        chosen = families.names() if options.family == "all" else [options.family]
        figures["families"] = {family: measure_family(family, options) for family in chosen}
    else:
        if options.only != "nougat":
            figures["start"] = measure_start(options.runs)
        if options.only != "start":
            figures |= measure_nougat(options)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / (f"figures-{options.family}.json" if options.family else "figures.json")
    file.write_text(json.dumps(figures, indent=1))
    print(report(figures))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / "bench-output")
    parser.add_argument("--only", choices=["start", "nougat"], help="measure only this part")
    parser.add_argument("--family", choices=["all", *families.names()], help="measure this family instead")
    parser.add_argument("--mode", default="", help="the family's mode; without it, its default one")
    parser.add_argument(
        "--tokens", type=int, default=64, help="tokens to decode for a family (%(default)s); 0 measures loading alone"
    )
    parser.add_argument("--tiny", action="store_true", help="a family's tiny model, to try the script")
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter with torch and transformers")
    parser.add_argument("--runs", type=int, default=7)
    kinds = ["openblas", "reference-blas", "torch", "ours", "theirs"]
    parser.add_argument("--child", choices=kinds, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
