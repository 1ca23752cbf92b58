"""What a page's result depends on, as a key: its pixels, the model, the question, the options, this version."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ocr_mlx.domain import DecodeParams, ModelRef, Page, Prompt
from ocr_mlx.model.base import Family, LoadedModel, Mode

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT: Final = 1
"""Changes when results of the same version are no longer to be used."""
_KEPT: Final = "page_key"


@dataclass(frozen=True, kw_only=True, slots=True)
class PageKey:
    """`pixels` is the same whatever is asked of the page, `whole` only where all else is the same too. SHA-256, hex."""

    pixels: str
    whole: str


KeyOf = Callable[[Page], PageKey]


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What of a loaded model makes its results what they are; true of it as long as `identity(ref)` stays `files`."""

    ref: ModelRef
    family: Family
    dpi: float
    bytes: int
    files: Mapping[str, Any]


def about(model: LoadedModel) -> About:
    """What is told of it; its files as they were when it was first asked."""
    found: About | None = model.kept.get(_KEPT)
    return found or model.kept.setdefault(
        _KEPT,
        About(
            ref=model.ref,
            family=model.family,
            dpi=model.processor.dpi,
            bytes=model.bytes,
            files=identity(model.ref),
        ),
    )


def keys(model: About, prompt: Prompt, mode: Mode, params: DecodeParams, *, precision: str = "") -> KeyOf:
    """What gives a page its key in one reading. `precision` says what else the engine's numbers depend on."""
    question = {
        "format": FORMAT,
        "version": _version(),
        "model": model.files,
        "family": model.family.name,
        "bytes": model.bytes,
        "precision": precision,
        "prompt": [prompt.text, prompt.system, mode.name],
        "params": asdict(params),
    }
    return partial(_key, json.dumps(question, sort_keys=True, default=str), model.family.numbered)


def identity(ref: ModelRef) -> dict[str, Any]:
    """Tells models apart: where they come from, and the names, sizes and times of their files as they are now."""
    return {
        "path": str(ref.path),
        "revision": ref.revision,
        "quantization": None if ref.quantization is None else asdict(ref.quantization),
        "adapter": None if ref.adapter is None else str(ref.adapter),
        "files": _files(ref.path) + ([] if ref.adapter is None else _files(ref.adapter)),
    }


def _version() -> str:
    try:
        return version("ocr_mlx")
    except PackageNotFoundError:  # not installed, only run
        return ""


def _files(folder: Path) -> list[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    except OSError:
        return []
    return sorted((name, about.st_size, about.st_mtime_ns) for name, about in found)


def _key(question: str, numbered: bool, page: Page) -> PageKey:
    pixels = _pixels((page.image, *page.following))
    place = f"{page.origin} {page.index}" if numbered else ""
    return PageKey(pixels=pixels, whole=hashlib.sha256(f"{pixels}{place}{question}".encode()).hexdigest())


def _pixels(images: tuple[Image, ...]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.mode} {image.width} {image.height};".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()
