"""Writing results to files: whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ocr_mlx.cli import inputs
from ocr_mlx.errors import InvalidOption, OcrMlxError
from ocr_mlx.outputs.formats import FORMATS


def paths(words: Sequence[str], output: Path | None, ending: str) -> list[Path | None]:
    """Where each input's result goes, None for stdout. Raises InvalidOption for one file and several inputs."""
    if output is None:
        return [None] * len(words)
    is_folder = os.path.isdir(output)  # unlike pathlib's, False for a name that is too long
    if len(words) == 1 and not is_folder and not str(output).endswith(os.sep):
        return [output]
    named_as_file = output.suffix.lower().lstrip(".") in FORMATS
    if not is_folder and (os.path.exists(output) or named_as_file):
        raise InvalidOption(f"{output} is a file, but several inputs need a folder.", hint="Name a folder.")
    return [output / name for name in inputs.output_names(words, ending)]


def check(path: Path) -> None:
    """Raise OcrMlxError where `write` is bound to fail: better now than after the reading. Nothing is made."""
    if os.path.exists(path):
        if path.is_dir():
            raise _unwritable(path, "it is a folder")
        if not os.access(path if not path.is_file() else path.parent, os.W_OK):
            raise _unwritable(path, "permission denied")
        return
    nearest = next(parent for parent in path.absolute().parents if os.path.exists(parent))
    if not nearest.is_dir():
        raise _unwritable(path, f"{nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _unwritable(path, f"{nearest} may not be written to")


def write(path: Path, text: str) -> None:
    """Write a file, and its folder where there is none. Raises OcrMlxError, which says why it cannot be."""
    data = text.encode("utf-8", "replace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a pipe or a device
            path.write_bytes(data)
            return
        with _replacing(path) as part:
            part.write_bytes(data)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _unwritable(path, reason) from error


def _unwritable(path: Path, reason: str) -> OcrMlxError:
    return OcrMlxError(f"{path} cannot be written: {reason}.", hint="Choose another output.")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place at the end, or disappears."""
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
