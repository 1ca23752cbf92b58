"""From a Source to its bytes, under limits. Files are read here, addresses in `remote.py`."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ocr_mlx.domain import DataUri, FilePath, Source, Upload
from ocr_mlx.errors import SourceForbidden, SourceNotFound, SourceTooLarge

_KERNEL_FOLDERS = (Path("/proc"), Path("/sys"))
_MEGABYTE = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchLimits:
    """What may be fetched, and how much of it.

    `timeout` is the whole time in seconds for one address, redirects included; `allow_private` lets addresses inside
    this machine and network through; `file_roots` are the folders that files may be read from, None for anywhere.
    """

    max_bytes: int = 100 * _MEGABYTE
    timeout: float = 30.0
    allow_urls: bool = True
    allow_private: bool = False
    file_roots: tuple[Path, ...] | None = None


def fetch(source: Source, limits: FetchLimits) -> bytes:
    """The bytes of a document.

    SourceNotFound, SourceForbidden, SourceTooLarge, or FetchFailed (addresses only).
    """
    if isinstance(source, FilePath):
        return _read_file(source.path, limits)
    if isinstance(source, DataUri | Upload):
        check_size(len(source.data), limits.max_bytes)
        return source.data
    if not limits.allow_urls:
        raise SourceForbidden("Fetching addresses is switched off here.", hint="Send the document itself.")
    from ocr_mlx.pages.remote import fetch_url

    return fetch_url(source.url, limits)


def check_size(size: int, most: int) -> None:
    """SourceTooLarge when `size` bytes are more than `most`."""
    if size > most:
        raise SourceTooLarge(
            f"The document is larger than {_in_megabytes(most)}.",
            hint="Split it, shrink it, or raise the limit on bytes.",
        )


def _in_megabytes(size: int) -> str:
    return f"{size / _MEGABYTE:.4g} MB" if size >= _MEGABYTE else f"{size} bytes"


def _read_file(path: Path, limits: FetchLimits) -> bytes:
    real = _resolve(path)
    _check_allowed(path, real, limits.file_roots)
    try:
        # Non-blocking, so that opening a pipe without a writer does not wait; no link, because `real` has none.
        handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _translate(path, error) from error
    try:
        return _read_regular(path, handle, limits.max_bytes)
    finally:
        os.close(handle)


def _read_regular(path: Path, handle: int, most: int) -> bytes:
    status = os.fstat(handle)
    if stat.S_ISDIR(status.st_mode):
        raise SourceForbidden(f"{_shown(path)} is a folder.", hint="Name the files in it.")
    if not stat.S_ISREG(status.st_mode):
        raise SourceForbidden(f"{_shown(path)} is a device or a pipe, not a file.", hint="Name a file.")
    check_size(status.st_size, most)
    pieces: list[bytes] = []
    size = 0
    try:
        while piece := os.read(handle, _MEGABYTE):
            size += len(piece)
            check_size(size, most)
            pieces.append(piece)
    except OSError as error:
        raise _translate(path, error) from error
    return b"".join(pieces)


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceNotFound(
            f"{_shown(path)} is not a path that can be followed.", hint="Check its spelling."
        ) from error


def _check_allowed(path: Path, real: Path, roots: tuple[Path, ...] | None) -> None:
    if roots is not None and not any(real.is_relative_to(root.resolve()) for root in roots):
        raise SourceForbidden(
            f"{_shown(path)} is outside the folders that may be read.",
            hint="Move the file into one of them, send its bytes, or add its folder to OCR_MLX_FILE_ROOTS.",
        )
    if any(real.is_relative_to(folder) for folder in _KERNEL_FOLDERS):
        raise SourceForbidden(f"{_shown(path)} belongs to the system and is not a document.", hint="Name another file.")


def _shown(path: Path) -> str:
    """The path for a message: bytes that are no text cannot be printed or sent as they are."""
    return str(path).encode("utf-8", "replace").decode("utf-8")


def _translate(path: Path, error: OSError | ValueError) -> SourceNotFound | SourceForbidden:
    if isinstance(error, ValueError):
        return SourceNotFound(f"{_shown(path)} is no possible path.", hint="Check its spelling.")
    if isinstance(error, PermissionError):
        return SourceForbidden(
            f"{_shown(path)} may not be read.", hint="Check the permissions of the file and its folders."
        )
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return SourceForbidden(f"{_shown(path)} is a device or a pipe, not a file.", hint="Name a file.")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return SourceNotFound(
            f"There is no file {_shown(path)}.", hint="Check the path; relative paths start at the working folder."
        )
    return SourceNotFound(f"{_shown(path)} cannot be opened: {error.strerror}.", hint="Check the path.")
