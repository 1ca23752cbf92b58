"""`ocr_mlx doctor`: what is here, what is missing, and whether a page can be read."""

from __future__ import annotations

import importlib.metadata
import io
import platform
import sys
import time
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from typing import NoReturn

from ocr_mlx import __version__
from ocr_mlx.cli.models import entries
from ocr_mlx.cli.read import Reader
from ocr_mlx.domain import OcrRequest, PageStatus, Upload
from ocr_mlx.errors import OcrMlxError, RemoteFailed
from ocr_mlx.settings import Settings
from ocr_mlx.utils import records
from ocr_mlx.utils.blas import blas_in_use, load_blas

PACKAGES = ("mlx", "numpy", "pillow", "pillow-heif", "pypdfium2", "tokenizers", "huggingface_hub", "fastapi", "uvicorn")
TEST_TEXT = "Hello 123"
GOOD = 0.8
"""Share of the self-test's characters that must be right."""

Say = Callable[[str], object]


def examine(settings: Settings, build: Callable[[Settings], Reader], say: Say) -> bool:
    """Say everything, line by line; whether the self-test went well."""
    for title, lines in (
        ("versions", _versions()),
        ("machine", _machine(settings)),
        ("models", _models(settings)),
        ("server", _server(settings)),
    ):
        say(f"{title}:")
        for line in lines:
            say(f"  {line}")
    good, line = self_test(settings, build)
    say(f"self-test: {line}")
    return good


def _versions() -> Iterator[str]:
    yield f"ocr_mlx {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield ", ".join(f"{name} {_installed(name)}" for name in PACKAGES)


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _machine(settings: Settings) -> Iterator[str]:
    import psutil

    load_blas(settings.blas)
    from ocr_mlx.engine.device import default_device, models_memory

    device = default_device()
    memory = psutil.virtual_memory()
    room = settings.engine_options().memory or models_memory()
    yield f"device: {device.name} {device.detail}, {room / 1e9:.1f} GB for models, {psutil.cpu_count()} cores"
    yield f"memory: {memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if device.name == "cpu":
        yield from _blas()


def _blas() -> Iterator[str]:
    used = blas_in_use()
    yield f"BLAS: {used}"
    if sys.platform == "linux" and "reference" in used:
        yield "  Install OpenBLAS (Debian, Ubuntu: libopenblas0-pthread; Fedora: openblas): many times faster."


def _models(settings: Settings) -> Iterator[str]:
    default_here = False
    for entry in entries(settings):
        if entry.bytes is not None:
            state = "" if entry.complete else ", incomplete: the next use completes it"
            yield f"{entry.checkpoint} ({entry.family}), {entry.bytes / 1e6:.0f} MB{state}"
        default_here |= entry.complete and settings.default_model in (entry.checkpoint, *entry.names)
    if not default_here and not _is_elsewhere(settings):
        fetched = "offline mode is on, so it cannot be downloaded" if settings.offline else "the first use downloads it"
        yield f"the default model {settings.default_model} is not here; {fetched}"


def _is_elsewhere(settings: Settings) -> bool:
    from ocr_mlx.engine.remote import is_reference

    return settings.model_source == "vllm" or is_reference(settings.default_model)


def _server(settings: Settings) -> Iterator[str]:
    folder = records.state_folder(settings.state_dir)
    yield f"state folder: {folder}"
    found = [f"running: {record.get('url')} (process {record['pid']})" for record in records.running(folder)]
    yield from found or ["running: none"]
    if settings.redis_url:
        yield f"jobs: in Redis, {_redis(settings)}"
    if _is_elsewhere(settings):
        yield f"engine elsewhere: {_engine_elsewhere(settings)}"
    for name in Settings.unknown():
        yield f"{name} is no setting; `python -m ocr_mlx.settings` lists them"


def _redis(settings: Settings) -> str:
    from ocr_mlx.jobs.build import build_jobs

    try:
        jobs = build_jobs(settings.job_options(), _never)
    except OcrMlxError as error:
        return str(error)
    try:
        return "which answers" if jobs.healthy() else "which does not answer: check OCR_MLX_REDIS_URL, and that it runs"
    finally:
        jobs.close()


def _never() -> NoReturn:
    raise NotImplementedError("nothing is read here")


def _engine_elsewhere(settings: Settings) -> str:
    from ocr_mlx.cli.elsewhere import served
    from ocr_mlx.engine.remote import is_reference, parse, reference

    default = settings.default_model
    engine = parse(default if is_reference(default) else reference(settings.remote_endpoint, "any"))
    try:
        names = served(engine, settings.remote_options().key_for(engine))
    except RemoteFailed as error:
        return f"{engine.origin} does not answer as it should: {error}"
    return f"{engine.origin} serves {', '.join(names) or 'no model'}"


def self_test(settings: Settings, build: Callable[[Settings], Reader]) -> tuple[bool, str]:
    """Draw a line of text and read it with the built-in model."""
    started = time.monotonic()
    try:
        reader = build(settings)
    except OcrMlxError as error:
        return False, str(error)
    try:
        [page] = reader.run(OcrRequest(source=Upload(data=draw(TEST_TEXT)), model="builtin")).pages
    except OcrMlxError as error:
        return False, str(error)
    finally:
        reader.close()
    if page.status is PageStatus.FAILED:
        return False, page.error.message if page.error else "the page failed"
    matched = sum(block.size for block in SequenceMatcher(None, TEST_TEXT, page.text.strip()).get_matching_blocks())
    share = matched / max(len(TEST_TEXT), len(page.text.strip()))
    seconds = time.monotonic() - started
    found = f"{page.text.strip()!r} for {TEST_TEXT!r}, {matched} of {len(TEST_TEXT)} characters right, {seconds:.1f} s"
    return share >= GOOD, f"{'passed' if share >= GOOD else 'FAILED'}: {found}"


def draw(text: str) -> bytes:
    """A PNG of one dark line on white, in the font that comes with Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(28)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("RGB", (int(right - left) + 60, int(bottom - top) + 60), "white")
    ImageDraw.Draw(image).text((30 - left, 30 - top), text, font=font, fill=(20, 20, 20))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
