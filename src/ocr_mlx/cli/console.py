"""Standard input and output, either of which may be closed, and output full."""

from __future__ import annotations

import contextlib
import os
import sys

from ocr_mlx.errors import OcrMlxError, SourceError


class NoOutput(OcrMlxError):
    """Standard output takes nothing."""

    code = "no_output"


def check_output() -> None:
    """Raise NoOutput when standard output was closed by whoever started this program."""
    if sys.stdout is None:
        raise NoOutput("Standard output is closed.", hint="Open it, or name a file with --output.")


def is_terminal() -> bool:
    """Whether a person sees standard output as it is written."""
    return sys.stdout is not None and sys.stdout.isatty()


def say(text: str) -> None:
    """Write one line, or several, to standard output. Raises NoOutput."""
    write(text + "\n")


def write(text: str) -> None:
    """Write to standard output as UTF-8, at once. Raises NoOutput, and BrokenPipeError when nobody reads any more."""
    check_output()
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget()
        reason = error.strerror or type(error).__name__
        raise NoOutput(f"Standard output cannot be written: {reason}.") from error


def read() -> bytes:
    """Everything on standard input. Raises SourceError."""
    if sys.stdin is None:
        raise SourceError("Standard input is closed.", hint="Pipe a document in, or name a file.")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SourceError(f"Standard input cannot be read: {reason}.", hint="Pipe in a document.") from error


def _forget() -> None:
    """Send what is still buffered nowhere, or it fails once more when the program ends."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def end_now(code: object) -> None:
    """End the process with this exit status, whatever its threads do."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)
