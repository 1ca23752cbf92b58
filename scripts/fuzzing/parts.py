"""What the targets share: input into pieces, a folder for files, and the errors that are no findings."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ocr_mlx.errors import OcrMlxError

T = TypeVar("T")


def chosen(data: bytes, options: Sequence[T]) -> tuple[T, bytes]:
    """What the first byte picks, and the rest."""
    return options[(data[0] if data else 0) % len(options)], data[1:]


def text_of(data: bytes) -> str:
    """Any text at all, halves of characters included."""
    return data.decode("utf-8", "surrogateescape")


@contextmanager
def typed() -> Iterator[None]:
    """The program's own errors pass, and must be fit to be shown."""
    try:
        yield
    except OcrMlxError as error:
        str(error).encode("utf-8")
        assert error.message, "an error without a message"
        assert not any(char < " " and char not in "\t\n" for char in str(error)), "control characters in a message"
        assert str(folder()) not in str(error), "a path in a message"


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ocr_mlx-fuzz-")


def folder() -> Path:
    """A folder for this process's files."""
    return Path(_scratch().name)


def model_folder() -> Path:
    """The folder of a model in there."""
    made = folder() / "model"
    made.mkdir(exist_ok=True)
    return made
