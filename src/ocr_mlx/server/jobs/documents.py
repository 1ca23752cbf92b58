"""What comes with a job: the upload and how to read it, checked as far as a glance can tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from fastapi import File, Form, UploadFile
from starlette.exceptions import HTTPException

from ocr_mlx.domain import UNSET, DecodeOverrides, Prompt
from ocr_mlx.errors import (
    BadImage,
    BadPdf,
    InvalidOption,
    OcrMlxError,
    PageError,
    PdfLocked,
    SourceError,
    SourceTooLarge,
    UnknownModel,
    UnsupportedMedia,
)
from ocr_mlx.jobs.records import JobRequest
from ocr_mlx.pages.media import detect
from ocr_mlx.server import uploads
from ocr_mlx.server.errors import CODE_HEADER
from ocr_mlx.settings import Settings

Kind = Literal["image", "pdf"]
PDF_DPI = 300
LEAST_DPI, MOST_DPI = 72, 600
_WORDS = {"image": "image", "pdf": "PDF"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The fields of a submitted form. Empty means not said."""

    file: UploadFile
    engine: str
    webhook_url: str
    mode: str
    prompt: str
    pages: str
    password: str
    dpi: int | None
    max_tokens: int | None

    def request(self, model: str, *, dpi: int | None) -> JobRequest:
        """How to read the document, with `model`."""
        return JobRequest(
            model=model,
            prompt=Prompt(text=self.prompt, mode=self.mode),
            overrides=DecodeOverrides(max_new_tokens=UNSET if self.max_tokens is None else self.max_tokens),
            dpi=dpi,
            password=self.password or None,
        )


def asked(
    file: Annotated[UploadFile | None, File(description="The picture or PDF.")] = None,
    image: Annotated[UploadFile | None, File(description="The same under another name.")] = None,
    engine: Annotated[
        str, Form(description="The model: a name that `/models` lists, or a hub id.", max_length=300)
    ] = "",
    model: Annotated[str, Form(description="The same under another name.", max_length=300)] = "",
    webhook_url: Annotated[str, Form(description="Address that is told when the job ends.", max_length=2000)] = "",
    mode: Annotated[str, Form(description="One of the model's presets.", max_length=200)] = "",
    prompt: Annotated[str, Form(description="What to ask, for models that take a prompt.", max_length=20_000)] = "",
    pages: Annotated[str, Form(description="Pages to read, such as `1-3,7`.", max_length=10_000)] = "",
    password: Annotated[str, Form(description="Password of a PDF.", max_length=1000)] = "",
    dpi: Annotated[int | None, Form(description="Resolution for PDF pages, 72 to 600.")] = None,
    max_tokens: Annotated[int | None, Form(description="Most tokens per page.", ge=1, le=1_000_000)] = None,
) -> Asked:
    """The form. Raises RequestValidationError without a file, and a 400 for a resolution out of range."""
    if dpi is not None and not LEAST_DPI <= dpi <= MOST_DPI:
        raise HTTPException(400, f"DPI must be between {LEAST_DPI} and {MOST_DPI}")
    return Asked(
        file=uploads.one_of(file, image, "file"),
        engine=engine.strip() or model.strip(),
        webhook_url=webhook_url.strip(),
        mode=mode.strip(),
        prompt=uploads.plain_lines(prompt),
        pages=pages.strip(),
        password=password,
        dpi=dpi,
        max_tokens=max_tokens,
    )


async def document(file: UploadFile, settings: Settings, *, wanted: Kind) -> tuple[bytes, str, Kind]:
    """The bytes, the file's bare name, and what the bytes are by their signature.

    A PDF is taken where an image is wanted, not the other way round. Raises 400, and 413 above the limit.
    """
    name = _checked_name(file.filename or "")
    start = await file.read(2048)
    await file.seek(0)
    kind = _kind(start, wanted)
    most = settings.job_image_mb if kind == "image" else float(settings.max_file_mb)
    size = file.size or 0
    if size > most * uploads.MEBIBYTE:
        told = f"File too large: {size / uploads.MEBIBYTE:.1f}MB (max {most:g}MB)"
        raise refused(413, f"Invalid {_WORDS[kind]} file: {told}", SourceTooLarge)
    return await file.read(), name, kind


def check_mode(mode: str, model: str) -> None:
    """Raise 400 for a mode that the model does not have, where that can be told without loading it."""
    from ocr_mlx.model.registry import family_of

    family = family_of(model) if mode else None
    if family is not None and mode not in family.modes:
        known = ", ".join(family.modes)
        raise refused(400, f"The model has no mode '{mode}'. Known modes: {known}.", InvalidOption)


@contextmanager
def told(kind: Kind) -> Iterator[None]:
    """Turn what is wrong with a document, or with what was asked of it, into 400, or 413."""
    prefix = f"Invalid {_WORDS[kind]} file: "
    try:
        yield
    except SourceTooLarge as problem:
        raise refused(413, f"{prefix}{problem}", SourceTooLarge) from problem
    except BadImage as problem:
        raise refused(400, f"{prefix}File is not a valid image", BadImage) from problem
    except (UnsupportedMedia, BadPdf, PdfLocked) as problem:
        raise refused(400, f"{prefix}{problem}", type(problem)) from problem
    except (SourceError, PageError, UnknownModel, InvalidOption) as problem:
        raise refused(400, str(problem), type(problem)) from problem


def refused(status: int, message: str, kind: type[OcrMlxError]) -> HTTPException:
    """The answer, with the error's code as a header."""
    return HTTPException(status, message, headers={CODE_HEADER: kind.code})


def _kind(start: bytes, wanted: Kind) -> Kind:
    prefix = f"Invalid {_WORDS[wanted]} file: "
    if not start:
        raise refused(400, f"{prefix}File is empty", UnsupportedMedia)
    found = detect(start)
    if found is None:
        raise refused(400, f"{prefix}Unknown or unsupported file type", UnsupportedMedia)
    if wanted == "pdf" and found != "PDF":
        mismatch = f"File type mismatch: expected PDF, detected {found}. Send pictures to POST /ocr."
        raise refused(400, prefix + mismatch, UnsupportedMedia)
    return "pdf" if found == "PDF" else "image"


def _checked_name(name: str) -> str:
    """The bare name; 400 for one that points elsewhere or hides."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    bare = uploads.bare_name(name)
    if ".." in parts or bare.startswith("."):
        raise refused(400, "Invalid filename: Invalid filename pattern", SourceError)
    return bare
