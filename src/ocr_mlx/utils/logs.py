"""Logging: one line per event on stderr, and the last lines in memory. Lines carry a request's id, not its content."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections import deque
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

REQUEST_ID: ContextVar[str] = ContextVar("ocr_mlx_request_id", default="-")
LOGGERS = ("ocr_mlx", "uvicorn.error")


class LogTail(logging.Handler):
    """Keeps the last lines that were logged."""

    def __init__(self, lines: int = 2000) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self._lines.append(self.format(record))

    def text(self) -> str:
        """The kept lines, oldest first."""
        return "".join(f"{line}\n" for line in tuple(self._lines))


class _Formatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s [%(request_id)s] %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = REQUEST_ID.get()
        return super().format(record)


def configure(level: str = "info", stream: TextIO | None = None) -> LogTail:
    """Send this program's and the web server's log lines to `stream` (stderr) and to the tail that is returned."""
    tail = LogTail()
    handlers: list[logging.Handler] = [logging.StreamHandler(stream or sys.stderr), tail]
    for handler in handlers:
        handler.setFormatter(_Formatter())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.setLevel(level.upper())
        logger.propagate = False
    return tail


def where(error: BaseException) -> str:
    """An exception's class and the calls that led to it, without its message: that may quote a document or a path."""
    frames = traceback.extract_tb(error.__traceback__)
    calls = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    return f"{type(error).__name__} at {calls or 'unknown'}"


def counted(number: float, noun: str) -> str:
    """`1 page`, `2 pages`, `0.5 seconds`."""
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
