"""Logging: one line per event on stderr, and the last lines in memory. Lines carry a request's id, not its content.

A line is text, or a JSON object: `time`, `level`, `logger`, `request_id`, `message`, and what `fields` was given.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

REQUEST_ID: ContextVar[str] = ContextVar("ocr_mlx_request_id", default="-")
LOGGERS = ("ocr_mlx", "uvicorn.error")
_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


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


class Unhurried(logging.Handler):
    """Writes to a stream from a thread of its own, so that a reader who does not read holds up nobody.

    A pipe takes 64 KiB; a parent that never empties it would otherwise stop the whole server. What does not fit is left
    out, and said so once there is room again.
    """

    def __init__(self, stream: TextIO, lines: int = 2000) -> None:
        super().__init__()
        self._stream = stream
        self._most = lines
        self._lines: deque[str] = deque()
        self._lost = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line; never blocks."""
        line = self.format(record) + "\n"
        with self._changed:
            if len(self._lines) >= self._most:
                self._lost += 1
                return
            if self._lost:
                line = f"{self.format(_gap(self._lost))}\n{line}"
                self._lost = 0
            self._lines.append(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all is written, for a second at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, timeout=1.0)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._lines))
                line = self._lines[0]
            with suppress(OSError, ValueError):  # the reader has gone, or the stream is closed: nobody is left to tell
                self._stream.write(line)
                self._stream.flush()
            with self._changed:
                self._lines.popleft()
                self._changed.notify_all()


def _gap(lost: int) -> logging.LogRecord:
    told = f"({counted(lost, 'line')} left out: nobody read them)"
    return logging.LogRecord(__name__, logging.WARNING, "", 0, told, None, None)


class _Formatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s [%(request_id)s] %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = REQUEST_ID.get()
        return super().format(record)

    def formatException(self, ei: _ExceptionInfo) -> str:
        """Its place and not its message, which may quote a document."""
        return where(ei[1]) if ei[1] is not None else ""


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": REQUEST_ID.get(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told | getattr(record, "fields", {}))


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """The `extra` of a log call: what stands in a JSON line beside the message. Numbers and plain words, never content."""
    return {"fields": values}


def configure(level: str = "info", stream: TextIO | None = None, *, style: str = "text") -> LogTail:
    """Send this program's and the web server's log lines to `stream` (stderr) and to the tail that is returned.

    `style` is text or json. Other libraries stay silent: their messages may quote a document, and Python would write
    warnings to stderr itself.
    """
    tail = LogTail()
    handlers: list[logging.Handler] = [Unhurried(stream or sys.stderr), tail]
    for handler in handlers:
        handler.setFormatter(_JsonFormatter() if style == "json" else _Formatter())
    logging.getLogger().handlers[:] = [logging.NullHandler()]
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
