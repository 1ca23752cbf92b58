"""PDFs as documents. pdfium runs in a process of its own that stays warm, and is replaced when it hangs or crashes."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from ocr_mlx import errors
from ocr_mlx.domain import Page, Word
from ocr_mlx.pages.frames import Frame, read_frame, write_frame
from ocr_mlx.pages.limits import PageLimits

_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 2.0
_REPAIR: Final = "Open it in another program and save it again, or send the pages as images."
_TYPED: Final = {kind.code: kind for kind in (errors.BadPdf, errors.PdfLocked, errors.SourceTooLarge)}


class _Gone(Exception):
    """The PDF process ended in the middle of a request; `hung` when it was ended for taking too long."""

    def __init__(self, hung: bool) -> None:
        super().__init__(hung)
        self.hung = hung


class _Child:
    """One running PDF process. Not safe for threads: PdfRenderer takes turns."""

    def __init__(self, command: Sequence[str]) -> None:
        self.documents: dict[int, int] = {}
        """id -> bytes, for the documents that are open in it, the least recently used first"""
        # Its own session: a Ctrl-C at the terminal is the parent's to handle.
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("both are pipes")
        self._requests = self._process.stdin
        self._answers = self._process.stdout
        self._timed(_START_SECONDS, lambda: read_frame(self._answers))

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def ask(self, seconds: float, header: Mapping[str, Any], body: bytes = b"") -> Frame:
        """Send a request and wait for its answer. _Gone when there is none within `seconds`."""

        def exchange() -> Frame | None:
            write_frame(self._requests, header, body)
            return read_frame(self._answers)

        return self._timed(seconds, exchange)

    def _timed(self, seconds: float, step: Any) -> Frame:
        hung = threading.Event()

        def stop() -> None:
            hung.set()
            self._process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            answer: Frame | None = step()
        except OSError:
            answer = None
        finally:
            timer.cancel()
            timer.join()
        if answer is None or hung.is_set():
            self.close()
            raise _Gone(hung.is_set())
        return answer

    def close(self) -> None:
        """End it and wait until it is gone."""
        try:
            self._requests.close()
        except OSError:  # what was left to write has no reader any more
            pass
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def kill(self) -> None:
        """End it from another thread, in the middle of whatever it does."""
        self._process.kill()


class PdfRenderer:
    """Opens and draws PDFs in one process, which starts with the first PDF. Safe for threads, which take turns.

    A context manager, or call `close()`.
    """

    def __init__(self, limits: PageLimits | None = None, *, command: Sequence[str] | None = None) -> None:
        """`limits.memory` holds for the process; `command` starts it (for tests)."""
        memory = (limits or PageLimits()).memory
        # -P: a module of the user's working folder must never be imported in place of the standard library's.
        python = command or (sys.executable, "-P", "-m", "ocr_mlx.pages.pdf_child")
        self._command = (*python, str(memory))
        self._room = memory // 4
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._done_with: list[int] = []
        self._closed = False

    def open(self, data: bytes, *, limits: PageLimits, password: str | None = None) -> PdfReader:
        """Open a PDF. BadPdf, or PdfLocked where the password is missing or wrong."""
        return PdfReader(self, next(self._ids), data, limits, password)

    def ask(self, reader: PdfReader, request: Mapping[str, Any] | None = None) -> Frame:
        """Send a request about the reader's document, which is opened in the process first where it is not yet.

        Without a request the answer is the opening's.
        """
        with self._lock:
            child = self._warm()
            try:
                self._tidy(child)
                if reader.id not in child.documents:
                    answer = self._open_in(child, reader)
                child.documents[reader.id] = child.documents.pop(reader.id)
                if request is not None:
                    answer = _checked(child.ask(reader.limits.render_timeout, {**request, "document": reader.id}))
                return answer
            except _Gone as gone:
                self._child = None
                raise self._explain(gone, reader, request) from gone

    def forget(self, reader: PdfReader) -> None:
        """Let the process close a document, now or before its next work."""
        self._done_with.append(reader.id)
        if self._lock.acquire(blocking=False):
            try:
                if self._child is not None and self._child.alive:
                    self._tidy(self._child)
            except _Gone:
                self._child = None
            finally:
                self._lock.release()

    def close(self) -> None:
        """End the process, in the middle of a page if need be; that page's request gets ShuttingDown."""
        self._closed = True
        if (child := self._child) is not None:
            child.kill()
        with self._lock:
            if self._child is not None:
                self._child.close()
                self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _warm(self) -> _Child:
        """The running process, started or replaced where need be."""
        self._check_open()
        if self._child is not None and not self._child.alive:
            self._child.close()
            self._child = None
        if self._child is None:
            self._done_with.clear()
            self._child = self._start()
            self._check_open()  # `close()` may have missed a process that was only starting
        return self._child

    def _start(self) -> _Child:
        try:
            return _Child(self._command)
        except (_Gone, OSError) as error:
            raise errors.BadPdf(
                "The process that reads PDFs could not be started.",
                hint="Reinstall ocr_mlx with its dependencies, and check that memory is free.",
            ) from error

    def _check_open(self) -> None:
        if self._closed:
            raise errors.ShuttingDown("The PDF reader is closed.", hint="Start the server again.")

    def _open_in(self, child: _Child, reader: PdfReader) -> Frame:
        while child.documents and sum(child.documents.values()) + len(reader.data) > self._room:
            self._close_in(child, next(iter(child.documents)), reader.limits)
        header = {"op": "open", "document": reader.id, "password": reader.password}
        answer = _checked(child.ask(reader.limits.render_timeout, header, reader.data))
        child.documents[reader.id] = len(reader.data)
        return answer

    def _tidy(self, child: _Child) -> None:
        while self._done_with:
            self._close_in(child, self._done_with.pop(), PageLimits())

    def _close_in(self, child: _Child, document: int, limits: PageLimits) -> None:
        if child.documents.pop(document, None) is not None:
            child.ask(limits.render_timeout, {"op": "close", "document": document})

    def _explain(self, gone: _Gone, reader: PdfReader, request: Mapping[str, Any] | None) -> errors.OcrMlxError:
        if self._closed:
            return errors.ShuttingDown("The PDF reader was closed in the middle of a page.", hint="Send it again.")
        what = f"Page {request['index'] + 1} of the PDF" if request else "The PDF"
        if gone.hung:
            seconds = reader.limits.render_timeout
            return errors.BadPdf(f"{what} was not ready within {seconds:g} seconds and was given up.", hint=_REPAIR)
        return errors.BadPdf(f"{what} made the PDF reader run out of memory or crash.", hint=_REPAIR)


class PdfReader:
    """One PDF. Its bytes are kept, so that it survives a new process."""

    def __init__(
        self, renderer: PdfRenderer, document: int, data: bytes, limits: PageLimits, password: str | None
    ) -> None:
        self.id = document
        self.data = data
        self.limits = limits
        self.password = password
        self._renderer = renderer
        answer, _ = renderer.ask(self)
        self.page_count: int = answer["pages"]

    def read(self, index: int, dpi: float) -> Page:
        """Draw page `index` at `dpi`, or at less where it would break the pixel limit. BadPdf, SourceTooLarge."""
        from PIL import Image

        request = {
            "op": "page",
            "index": index,
            "dpi": dpi,
            "max_pixels": self.limits.max_pixels,
            "max_page_points": self.limits.max_page_points,
        }
        answer, pixels = self._renderer.ask(self, request)
        size = (answer["width"], answer["height"])
        return Page(
            index=index,
            image=Image.frombuffer("RGB", size, pixels, "raw", "RGB", 0, 1),
            width=size[0],
            height=size[1],
            dpi=answer["dpi"],
            origin="pdf",
            text_layer=_words(answer["words"]),
        )

    def close(self) -> None:
        """Forget the document here and in the process."""
        self._renderer.forget(self)
        self.data = b""


def _words(rows: list[list[Any]] | None) -> tuple[Word, ...] | None:
    if rows is None:
        return None
    return tuple(Word(text=text, box=(left, top, right, bottom)) for text, left, top, right, bottom in rows)


def _checked(frame: Frame) -> Frame:
    header = frame[0]
    if "code" in header:
        raise _TYPED[header["code"]](header["message"], hint=header["hint"])
    return frame
