"""`ocr_mlx read`: many documents, in order, text on stdout or in files, everything else on stderr.

Text on stdout comes page by page, as each is done and those before it are out; files are written whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from ocr_mlx.cli import console, files, inputs
from ocr_mlx.cli.live import Finished, InOrder
from ocr_mlx.cli.progress import Reporter
from ocr_mlx.cli.unbroken import unbroken
from ocr_mlx.domain import Event, ModelProgress, OcrRequest, OcrResult, OnEvent, PageResult, PageStatus, Source
from ocr_mlx.errors import Cancelled, InvalidOption, ModelError, OcrMlxError, PdfLocked, SourceError
from ocr_mlx.outputs.formats import FORMATS, PARTS, to_error_line, to_json_line

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

    def close(self) -> bool | None:
        """End. False where a thread still computes, which nothing can stop."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """One document: its pages as they finish, None at the end, and what it comes to."""

    pages: SimpleQueue[Finished | None]
    future: Future[OcrResult]


def read(words: Sequence[str], options: ReadOptions, reader: Reader, reporter: Reporter) -> int:
    """Read every input; the exit status. Results come out in the order of the inputs.

    Ctrl-C stops the model within a step: what is finished is still printed to stdout, files are only written whole.
    Raises InvalidOption, and OcrMlxError where the output cannot be written, mostly before anything is read.
    """
    sink = _Sink(words, options, reporter)
    cancel = threading.Event()
    piped = _piped(words)
    pool = ThreadPoolExecutor(min(AT_ONCE, len(words)), thread_name_prefix="read")

    def one(word: str, pages: SimpleQueue[Finished | None]) -> OcrResult:
        source = piped if word == inputs.STDIN else inputs.source(word)
        if source is None or isinstance(source, SourceError):
            raise source or SourceError("Standard input was not read.")
        order = InOrder()

        def told(event: Event) -> None:
            if cancel.is_set() and isinstance(event, ModelProgress):
                raise Cancelled("Interrupted while the model was fetched.")  # ends a download; it goes on the next time
            reporter.event(event)
            for page in order.take(event):
                pages.put(page)

        return reader.run(replace(options.request, source=source), told, cancel)

    work: list[_Work] = []
    try:
        for word in words:
            work.append(_begin(pool, one, word))
        return _collect(work, sink)
    except KeyboardInterrupt:
        cancel.set()
        pool.shutdown(wait=False, cancel_futures=True)
        sink.rescue(work)
        return Exit.INTERRUPTED
    finally:
        cancel.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(pool: ThreadPoolExecutor, one: Callable[[str, SimpleQueue[Finished | None]], OcrResult], word: str) -> _Work:
    pages: SimpleQueue[Finished | None] = SimpleQueue()
    future = pool.submit(one, word, pages)
    future.add_done_callback(lambda _done: pages.put(None))
    return _Work(pages=pages, future=future)


def _piped(words: Sequence[str]) -> Source | SourceError | None:
    """Standard input, where it is asked for. Read on this thread: Ctrl-C cannot reach another one that waits for it."""
    try:
        return inputs.source(inputs.STDIN) if inputs.STDIN in words else None
    except SourceError as error:
        return error


def _collect(work: Sequence[_Work], sink: _Sink) -> int:
    """Take the results in order. A model that cannot be had, or a wrong option, ends it: the rest would fail alike."""
    status = Exit.OK
    for index, one in enumerate(work):
        for page in iter(one.pages.get, None):
            with unbroken():
                sink.page(index, page)
        try:
            result = one.future.result()
            with unbroken():
                whole = sink.take(index, result)
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
    """Where results go. One document after the other; of each, pages as they finish, and then the whole."""

    def __init__(self, words: Sequence[str], options: ReadOptions, reporter: Reporter) -> None:
        self._labels = [inputs.label(word) for word in words]
        self._options = options
        self._reporter = reporter
        self._paths = files.paths(words, options.output, options.format)
        self._lines = len(words) > 1 and options.format == "json"
        self._taken = 0
        self._told: set[int] = set()
        """Pages of the document in hand that are out."""
        self._text = _Text()
        prints = options.echo or options.output is None
        for path in self._paths:
            if path is not None:
                files.check(path)
        if prints:
            console.check_output()
        self._mixed = prints and console.is_terminal()
        """Whether the text goes to a terminal, where a line for every page would tear it apart."""

    def page(self, index: int, page: Finished) -> None:
        """A page of the document in hand is done, and next in order."""
        self._told.add(page.result.index)
        reason = _reason(page.result)
        if reason or not self._mixed:
            self._reporter.page(self._labels[index], page, reason)
        if self._prints(index) and self._options.format in PARTS:
            self._write(self._text.of_page("\n\n".join(PARTS[self._options.format](page.result))))

    def take(self, index: int, result: OcrResult) -> bool:
        """Print or write one document; whether all of it was read. Raises OcrMlxError when a file cannot be written."""
        self._rest(index, result, len(result.pages))
        path = self._paths[index]
        if path is not None and (self._options.format == "json" or not _nothing(result)):
            files.write(path, FORMATS[self._options.format](result))
        return all(_fine(page, self._options.strict) for page in result.pages)

    def complain(self, index: int, error: OcrMlxError) -> None:
        """Say on stderr what is wrong with an input."""
        self._end(index)
        asked = isinstance(error, PdfLocked) and self._options.request.password is None
        message = f"{error.message} Give it with --password." if asked else str(error)
        self._reporter.note(f"{self._labels[index]}: {message}")
        if self._lines and self._paths[index] is None:
            self._write(to_error_line(self._labels[index], error))

    def rescue(self, work: Sequence[_Work]) -> None:
        """After Ctrl-C: print what was finished; say what was not."""
        for index in range(self._taken, len(work)):
            future = work[index].future
            if future.cancelled():
                continue
            try:
                result = future.result(timeout=_PATIENCE)
            except (OcrMlxError, TimeoutError):
                continue
            done = tuple(page for page in result.pages if page.status is not PageStatus.CANCELLED)
            if self._paths[index] is None and done:
                self._rest(index, replace(result, pages=done), len(result.pages))
            self._reporter.note(f"{self._labels[index]}: interrupted after {len(done)} of {len(result.pages)} pages.")

    def _rest(self, index: int, result: OcrResult, total: int) -> None:
        """What is not out yet of a document of `total` pages."""
        for number, page in enumerate(result.pages, 1):
            if page.index not in self._told:
                self.page(index, Finished(result=page, number=number, total=total))
        if self._prints(index) and self._options.format not in PARTS:
            whole = FORMATS[self._options.format](result)
            self._write(to_json_line(self._labels[index], result) if self._lines else whole)
        self._end(index)

    def _end(self, index: int) -> None:
        self._taken = index + 1
        self._told.clear()
        self._text.end()

    def _prints(self, index: int) -> bool:
        return self._paths[index] is None or self._options.echo

    def _write(self, text: str) -> None:
        if not text:
            return
        go_on = self._reporter.aside()
        try:
            console.write(text)
        finally:
            go_on()


class _Text:
    """Puts between pages and documents what belongs there, and a line break behind each page."""

    def __init__(self) -> None:
        self._before = ""

    def of_page(self, text: str) -> str:
        """A page's text as it follows what is there already."""
        if not text:
            return ""
        out, broken = self._before + text, text.endswith("\n")
        self._before = "\n\n" if broken else "\n"
        return out if broken else out + "\n"

    def end(self) -> None:
        """The next page is another document's."""
        self._before = "\n" if self._before else ""


def _reason(page: PageResult) -> str:
    return page.error.message if page.error else _REASONS.get(page.status, "")


def _nothing(result: OcrResult) -> bool:
    return bool(result.pages) and all(page.status is PageStatus.FAILED for page in result.pages)


def _fine(page: PageResult, strict: bool) -> bool:
    """A page that is whole; unless `strict`, one that is not whole but has text will do."""
    if page.status in (PageStatus.OK, PageStatus.BLANK):
        return True
    return not strict and bool(page.text) and page.status not in (PageStatus.FAILED, PageStatus.CANCELLED)
