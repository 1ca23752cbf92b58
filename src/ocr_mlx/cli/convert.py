"""`ocr_mlx convert`: a checkpoint to an MLX folder, with progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ocr_mlx.cli.progress import Reporter
from ocr_mlx.domain import ModelProgress
from ocr_mlx.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertOptions:
    """What to convert and how; `bits` None keeps the layers as they are, `dtype` None keeps the stored type."""

    source: str
    out: Path
    bits: int | None
    group_size: int
    mixed: bool
    dtype: str | None


def convert(settings: Settings, options: ConvertOptions, reporter: Reporter) -> str:
    """Fetch what is missing, convert, and say what came out. Raises InvalidOption, and ModelError and its kinds."""
    from ocr_mlx.utils.blas import load_blas

    load_blas(settings.blas)
    from ocr_mlx.model import hub
    from ocr_mlx.quantize.convert import convert as run
    from ocr_mlx.quantize.recipe import check_options
    from ocr_mlx.quantize.save import check_free

    check_options(bits=options.bits, group_size=options.group_size, mixed=options.mixed, dtype=options.dtype)
    check_free(options.out.expanduser())
    started = time.monotonic()
    found = hub.find(
        options.source,
        offline=settings.offline,
        cache_dir=settings.models_dir,
        on_progress=_told(reporter, options.source, "downloading"),
        on_download=lambda family, repo: reporter.event(
            ModelProgress(model=repo, stage="downloading", licence=family.licence)
        ),
    )
    folder = run(
        found,
        options.out,
        bits=options.bits,
        group_size=options.group_size,
        mixed=options.mixed,
        dtype=options.dtype,
        on_progress=_told(reporter, str(options.out), "writing"),
    )
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return f"{folder}: {size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s"


def _told(reporter: Reporter, name: str, stage: str) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        reporter.progress(f"{stage} {name}", done, total)

    return progress
