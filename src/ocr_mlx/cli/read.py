"""`ocr_mlx read`: many documents, in order, text on stdout or in files, everything else on stderr."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from ocr_mlx.cli import console, files, inputs
from ocr_mlx.cli.progress import Reporter
from ocr_mlx.domain import Event, ModelProgress, OcrRequest, OcrResult, OnEvent, PageResult, PageStatus, Source
from ocr_mlx.errors import Cancelled, InvalidOption, ModelError, OcrMlxError, PdfLocked, SourceError
from ocr_mlx.outputs.formats import FORMATS, to_error_line, to_json_line

AT_ONCE = 8
"""Documents in work together: their pages share the batch."""
_PATIENCE = 30.0


class Exit(IntEnum):
    """Exit statuses of the commands."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    NO_MODEL = 3
    INTERRUPTED = 130


class Reader(Protocol):
    """The engine's use case (`engine.service.OcrService`)."""

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        """Read one document; blocks."""
        ...

    def close(self) -> None:
        """End."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """`request` is what all inputs share. `output` is a file for one input, a folder for several, None for stdout.

    `echo` writes the text to stdout too; `strict` counts a page that is not whole as failed.
    """

    request: OcrRequest
    output: Path | None = None
    format: str = "txt"
    strict: bool = False
    echo: bool = False


_REASONS = {
    PageStatus.TRUNCATED: "cut off at the token limit",
    PageStatus.LOOP_STOPPED: "the model repeated itself and was stopped",
    PageStatus.LOOP_RECOVERED: "the model repeated itself; that stretch was read again",
    PageStatus.CANCELLED: "cancelled",
}


def read(words: Sequence[str], options: ReadOptions, reader: Reader, reporter: Reporter) -> int:
    """Read every input; the exit status. Results come out in the order of the inputs.

    Ctrl-C stops the model within a step: what is finished is still printed to stdout, files are only written whole.
    Raises InvalidOption, and OcrMlxError where the output cannot be written, mostly before anything is read.
    """
    sink = _Sink(words, options, reporter)
    cancel = threading.Event()
    piped = _piped(words)
    pool = ThreadPoolExecutor(min(AT_ONCE, len(words)), thread_name_prefix="read")

    def one(word: str) -> OcrResult:
        source = piped if word == inputs.STDIN else inputs.source(word)
        if source is None or isinstance(source, SourceError):
            raise source or SourceError("Standard input was not read.")
        return reader.run(replace(options.request, source=source), told, cancel)

    def told(event: Event) -> None:
        if cancel.is_set() and isinstance(event, ModelProgress):
            raise Cancelled("Interrupted while the model was fetched.")  # ends a download; it goes on the next time
        reporter.event(event)

    work: list[Future[OcrResult]] = []
    try:
        for word in words:
            work.append(pool.submit(one, word))
        return _collect(work, sink)
    except KeyboardInterrupt:
        cancel.set()
        pool.shutdown(wait=False, cancel_futures=True)
        sink.rescue(work)
        return Exit.INTERRUPTED
    finally:
        cancel.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _piped(words: Sequence[str]) -> Source | SourceError | None:
    """Standard input, where it is asked for. Read on this thread: Ctrl-C cannot reach another one that waits for it."""
    try:
        return inputs.source(inputs.STDIN) if inputs.STDIN in words else None
    except SourceError as error:
        return error


def _collect(work: Sequence[Future[OcrResult]], sink: _Sink) -> int:
    """Take the results in order. A model that cannot be had, or a wrong option, ends it: the rest would fail alike."""
    status = Exit.OK
    for index, future in enumerate(work):
        try:
            whole = sink.take(index, future.result())
        except console.NoOutput:
            raise
        except OcrMlxError as error:
            whole = False
            sink.complain(index, error)
            if isinstance(error, ModelError):
                return Exit.NO_MODEL
            if isinstance(error, InvalidOption):
                return Exit.USAGE
        if not whole:
            status = Exit.SOME_FAILED
    return status


class _Sink:
    """Where results go."""

    def __init__(self, words: Sequence[str], options: ReadOptions, reporter: Reporter) -> None:
        self._labels = [inputs.label(word) for word in words]
        self._options = options
        self._reporter = reporter
        self._paths = files.paths(words, options.output, options.format)
        self._lines = len(words) > 1 and options.format == "json"
        self._taken = 0
        self._printed = False
        for path in self._paths:
            if path is not None:
                files.check(path)
        if options.echo or options.output is None:
            console.check_output()

    def take(self, index: int, result: OcrResult) -> bool:
        """Print or write one document; whether all of it was read. Raises OcrMlxError when a file cannot be written."""
        self._taken = index + 1
        for page in result.pages:
            self._remark(index, page)
        path = self._paths[index]
        if path is not None and (self._options.format == "json" or not _nothing(result)):
            files.write(path, FORMATS[self._options.format](result))
        if path is None or self._options.echo:
            self._print(index, result)
        return all(_fine(page, self._options.strict) for page in result.pages)

    def complain(self, index: int, error: OcrMlxError) -> None:
        """Say on stderr what is wrong with an input."""
        self._taken = index + 1
        asked = isinstance(error, PdfLocked) and self._options.request.password is None
        message = f"{error.message} Give it with --password." if asked else str(error)
        self._reporter.note(f"{self._labels[index]}: {message}")
        if self._lines and self._paths[index] is None:
            self._write(to_error_line(self._labels[index], error))

    def rescue(self, work: Sequence[Future[OcrResult]]) -> None:
        """After Ctrl-C: print what was finished; say what was not."""
        for index in range(self._taken, len(work)):
            if work[index].cancelled():
                continue
            try:
                result = work[index].result(timeout=_PATIENCE)
            except (OcrMlxError, TimeoutError):
                continue
            done = tuple(page for page in result.pages if page.status is not PageStatus.CANCELLED)
            if self._paths[index] is None and done:
                self._print(index, replace(result, pages=done))
            self._reporter.note(f"{self._labels[index]}: interrupted after {len(done)} of {len(result.pages)} pages.")

    def _remark(self, index: int, page: PageResult) -> None:
        reason = page.error.message if page.error else _REASONS.get(page.status)
        if reason:
            self._reporter.note(f"{self._labels[index]}: page {page.index + 1}: {page.status.value}: {reason}")

    def _print(self, index: int, result: OcrResult) -> None:
        text = to_json_line(self._labels[index], result) if self._lines else FORMATS[self._options.format](result)
        if text:
            self._write(text)

    def _write(self, text: str) -> None:
        go_on = self._reporter.aside()
        try:
            separator = "\n" if self._printed and not self._lines else ""
            console.write(separator + text)
        finally:
            go_on()
        self._printed = True


def _nothing(result: OcrResult) -> bool:
    return bool(result.pages) and all(page.status is PageStatus.FAILED for page in result.pages)


def _fine(page: PageResult, strict: bool) -> bool:
    """A page that is whole; unless `strict`, one that is not whole but has text will do."""
    if page.status in (PageStatus.OK, PageStatus.BLANK):
        return True
    return not strict and bool(page.text) and page.status not in (PageStatus.FAILED, PageStatus.CANCELLED)
