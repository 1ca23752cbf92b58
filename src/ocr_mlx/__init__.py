"""Reads images and PDFs with native MLX models.

    import ocr_mlx
    result = ocr_mlx.read("page.png", model="builtin")
    print(result.text)

Importing this package is cheap; the first `read` or `load` imports the engine.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from typing import Unpack

    from ocr_mlx.domain import DecodeOverrides, OcrResult, OnEvent, Source
    from ocr_mlx.engine.service import OcrService
    from ocr_mlx.model.base import LoadedModel
    from ocr_mlx.settings import Settings

__version__ = "0.1.0"
__all__ = ["__version__", "load", "read"]


class DecodeOptions(TypedDict, total=False):
    """How to decode; what is left out, the model decides. See `ocr_mlx.domain.DecodeParams` for the meanings."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    repetition_window: int
    no_repeat_ngram: int
    ngram_window: int
    ngram_whitelist: tuple[int, ...]
    stop: tuple[str, ...]
    seed: int | None


def read(
    source: str | bytes | Path,
    model: str | None = None,
    pages: str | None = None,
    *,
    mode: str = "",
    prompt: str = "",
    padding: int = 0,
    password: str | None = None,
    dpi: float | None = None,
    keep_alive: float | None = None,
    timeout: float | None = None,
    fresh: bool = False,
    on_event: OnEvent | None = None,
    **decode: Unpack[DecodeOptions],
) -> OcrResult:
    """Read a document: a path, an `http(s)://`, `file://` or `data:` address, or the bytes of an image or PDF.

    `model` is an alias, a hub id or a folder (None: the configured default); `pages` is text such as `1-3,7` (None:
    all). The model stays in memory for `keep_alive` seconds; reading may take `timeout` seconds once it is there; `fresh` reads
    pages again that were read before. Safe to call from several threads.
    Raises `ocr_mlx.errors.InvalidOption` for an argument of the wrong kind, and another subclass of
    `ocr_mlx.errors.OcrMlxError` when nothing can be read; a single bad page is a page of the
    result with the status `failed`.
    """
    from ocr_mlx.domain import OcrRequest, Prompt
    from ocr_mlx.server.choice import for_the_user

    _check_texts(model=model, pages=pages, mode=mode, prompt=prompt, password=password)
    request = OcrRequest(
        source=_source(source),
        model=for_the_user(model or "", _settings()),
        prompt=Prompt(text=prompt, mode=mode),
        overrides=_overrides(decode),
        page_range=pages or "",
        padding=padding,
        dpi=dpi,
        password=password,
        keep_alive=keep_alive,
        timeout=timeout,
        fresh=fresh,
    )
    return _service().run(request, on_event)


def load(ref: str | Path, dtype: str | None = None) -> LoadedModel:
    """Load a model for your own use: an alias, a hub id (downloaded when needed) or a folder. `dtype` as in `float16`.

    It belongs to the caller: nothing unloads it. Raises `ocr_mlx.errors.ModelError`.
    """
    from ocr_mlx.settings import Settings
    from ocr_mlx.utils.blas import load_blas

    settings = Settings.from_env()
    load_blas(settings.blas)
    from ocr_mlx.model.hub import find
    from ocr_mlx.model.load import load_model

    found = find(str(ref), revision=None, offline=settings.offline, cache_dir=settings.models_dir)
    return load_model(found, dtype=dtype or settings.dtype or None)


def _source(source: str | bytes | Path) -> Source:
    from ocr_mlx.domain import FilePath, Upload
    from ocr_mlx.errors import InvalidOption
    from ocr_mlx.pages.source import parse_source

    if isinstance(source, bytes | bytearray | memoryview):
        return Upload(data=bytes(source))
    if isinstance(source, Path):
        return FilePath(path=source)
    if not isinstance(source, str):
        raise InvalidOption(
            f"A source cannot be of the type {type(source).__name__}.",
            hint="Give a path or an address as text, a pathlib.Path, or the bytes of an image or PDF.",
        )
    return parse_source(source)


def _check_texts(**given: str | None) -> None:
    from ocr_mlx.errors import InvalidOption

    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            hint = "It is text such as '3' or '1-3,7'." if name == "pages" else "It is text."
            raise InvalidOption(f"{name} cannot be of the type {type(value).__name__}.", hint=hint)


def _overrides(decode: DecodeOptions) -> DecodeOverrides:
    from ocr_mlx.domain import DecodeOverrides
    from ocr_mlx.errors import InvalidOption

    unknown = sorted(set(decode) - set(DecodeOptions.__annotations__))
    if unknown:
        known = ", ".join(DecodeOptions.__annotations__)
        raise InvalidOption(f"There is no option {', '.join(unknown)}.", hint=f"Decode options: {known}.")
    return DecodeOverrides(**decode)


@functools.cache
def _settings() -> Settings:
    from ocr_mlx.settings import Settings

    return Settings.from_env()


@functools.cache
def _service() -> OcrService:
    """One engine for the whole process, built at its first use and closed at exit."""
    import atexit

    from ocr_mlx.engine.build import build_service

    service = build_service(_settings().engine_options().for_the_user())
    atexit.register(service.close)
    return service
