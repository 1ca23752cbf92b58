"""From a Source to its bytes, under limits. `files.py` opens files, `remote.py` fetches addresses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ocr_mlx.domain import DataUri, FilePath, Source, Upload
from ocr_mlx.errors import SourceForbidden, SourceTooLarge
from ocr_mlx.pages.files import explained, open_file

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
            hint="Split it, shrink it, or raise OCR_MLX_MAX_FILE_MB.",
        )


def _in_megabytes(size: int) -> str:
    return f"{size / _MEGABYTE:.4g} MB" if size >= _MEGABYTE else f"{size} bytes"


def _read_file(path: Path, limits: FetchLimits) -> bytes:
    handle = open_file(path, limits.file_roots)
    try:
        return _read_all(handle, limits.max_bytes)
    except OSError as error:
        raise explained(path, error) from error
    finally:
        os.close(handle)


def _read_all(handle: int, most: int) -> bytes:
    """At most `most` bytes, however large the file says it is, and however it grows meanwhile."""
    check_size(os.fstat(handle).st_size, most)
    pieces: list[bytes] = []
    size = 0
    while piece := os.read(handle, _MEGABYTE):
        size += len(piece)
        check_size(size, most)
        pieces.append(piece)
    return b"".join(pieces)
