"""Documents that come as multipart/form-data."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

from fastapi import UploadFile
from fastapi.exceptions import RequestValidationError

from ocr_mlx.domain import Upload
from ocr_mlx.errors import SourceTooLarge

MEBIBYTE = 1024 * 1024
_NAME = 200


def one_of(own: UploadFile | None, other: UploadFile | None, field: str) -> UploadFile:
    """The uploaded file under the route's own field name or the other service's. A missing one is a violation of `field`."""
    chosen = own if own is not None else other
    if chosen is None:
        missing = {"type": "missing", "loc": ("body", field), "msg": "Field required", "input": None}
        raise RequestValidationError([missing])
    return chosen


async def content(file: UploadFile, *, most_mb: float) -> Upload:
    """The file's bytes and its bare name. Raises SourceTooLarge above `most_mb` MiB."""
    most = int(most_mb * MEBIBYTE)
    if (file.size or 0) > most:
        raise SourceTooLarge(
            f"File too large: {(file.size or 0) / MEBIBYTE:.1f} MB (max {most_mb:g} MB).", hint="Send a smaller one."
        )
    return Upload(data=await file.read(), name=bare_name(file.filename or ""))


def plain_lines(text: str) -> str:
    """A field's text with the line breaks that its user meant: browsers send those of a form as CR LF."""
    return text.replace("\r\n", "\n")


def bare_name(name: str) -> str:
    """The last part of a file's name, printable, without any folder."""
    last = PureWindowsPath(PurePosixPath(name.replace("\x00", "")).name).name
    return "".join(char for char in last if char.isprintable())[:_NAME]
