"""Documents as their pages: opened, decoded and drawn in a few processes of their own, which are replaced when they fail.

What a hostile file does to a decoder happens there and costs that request only. One document has at most one process at a
time, so that a slow one never holds up all others.
"""

from __future__ import annotations

import itertools
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from ocr_mlx import errors
from ocr_mlx.domain import Page, Word
from ocr_mlx.pages import media
from ocr_mlx.pages.frames import Frame
from ocr_mlx.pages.limits import PageLimits
from ocr_mlx.pages.process import Gone, PageProcess, launch, page_command

_MOST_DOCUMENTS: Final = 1000
"""Documents after which a process is replaced, so that what a library leaks never adds up."""
_TYPED: Final = {
    kind.code: kind
    for kind in (errors.BadImage, errors.BadPdf, errors.PdfLocked, errors.SourceTooLarge, errors.UnsupportedMedia)
}


class PageProcesses:
    """Opens images and PDFs in up to `processes` processes. Safe for threads, which wait for their turn.

    They start when they are needed. A context manager, or call `close()`.
    """

    def __init__(self, limits: PageLimits | None = None, *, processes: int = 2, command: Sequence[str] = ()) -> None:
        """`limits.memory` holds for each process; `command` starts one (for tests)."""
        memory = (limits or PageLimits()).memory
        start = page_command(memory, command)
        # Linux can end a process with the thread that started it: it must be one that lives as long as the parent.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="ocr-page-start")
        self._room = memory // 4
        self._ids = itertools.count(1)

        def started() -> subprocess.Popen[bytes]:
            return self._starter.submit(launch, start).result()

        self._processes = tuple(PageProcess(started, memory) for _ in range(processes))
        self._turn = threading.Condition()
        self._idle = list(self._processes)
        self._waiting: deque[object] = deque()
        self._warming = False
        self._closed = False

    def open(self, data: bytes, *, kind: media.Kind, limits: PageLimits, password: str | None = None) -> PageReader:
        """Open a document of that kind.

        BadImage, BadPdf, SourceTooLarge, UnsupportedMedia where a decoder is missing; PdfLocked where the password is
        missing or wrong. OutOfMemory where no process can be started.
        """
        return PageReader(self, next(self._ids), data, kind, limits, password)

    def warm(self) -> None:
        """Start one process, on a thread, so that the first document does not wait for it."""
        with self._turn:
            if self._closed or self._warming or not self._idle:
                return
            self._warming = True
            process = self._idle.pop()
        try:
            threading.Thread(target=self._warm, args=(process,), name="ocr-page-warm", daemon=True).start()
        except RuntimeError:  # no thread can be started: the first document will wait, or be told
            self._warmed(process)

    def ask(self, reader: PageReader, request: Mapping[str, Any] | None = None) -> Frame:
        """Send a request about the reader's document, which is opened in the process first where it is not yet.

        Without a request the answer is the opening's.
        """
        with reader.turn, self._taken(reader.id) as process:
            self._make_ready(process, reader)
            try:
                if reader.id not in process.documents:
                    answer = self._open_in(process, reader)
                process.documents[reader.id] = process.documents.pop(reader.id)
                if request is not None:
                    header = {**request, "document": reader.id}
                    answer = _checked(process.ask(reader.limits.render_timeout, header, most=reader.most_bytes))
                return answer
            except Gone as gone:
                self._check_open()
                raise reader.failed(request, hung=gone.hung) from gone
            except RuntimeError as error:  # no thread can be started to watch the process
                self._check_open()
                raise errors.OutOfMemory(
                    "The document cannot be opened: this machine has no room for another thread.",
                    hint="Try again in a moment, with less going on.",
                ) from error
            finally:
                if reader.closed:  # while this waited for its turn, so that `forget` did not find it here
                    process.unwanted.add(reader.id)

    def forget(self, reader: PageReader) -> None:
        """Close a document in the processes that have it: in idle ones now, in busy ones after their work."""
        with self._turn:
            for process in self._processes:
                if process not in self._idle or reader.id in process.documents:
                    process.unwanted.add(reader.id)
            mine = [process for process in self._idle if reader.id in process.documents]
            for process in mine:
                self._idle.remove(process)
        for process in mine:
            self._give_back(process)

    def close(self) -> None:
        """End all processes, in the middle of a page if need be; that page's request gets ShuttingDown."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        for process in self._processes:
            process.kill()
        with self._turn:
            self._turn.wait_for(lambda: len(self._idle) == len(self._processes))
        for process in self._processes:
            process.stop()
        self._starter.shutdown(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _warm(self, process: PageProcess) -> None:
        try:
            process.start()
        except (Gone, OSError, RuntimeError):  # the first document will be told
            pass
        finally:
            self._warmed(process)

    def _warmed(self, process: PageProcess) -> None:
        with self._turn:
            self._warming = False
        self._give_back(process)

    @contextmanager
    def _taken(self, document: int) -> Iterator[PageProcess]:
        process = self._take(document)
        try:
            yield process
        finally:
            self._give_back(process)

    def _take(self, document: int) -> PageProcess:
        """Wait for an idle process, first come, first served: the one that has the document open, else one that runs."""
        ticket = object()
        with self._turn:
            self._waiting.append(ticket)
            try:
                self._turn.wait_for(lambda: self._closed or (self._waiting[0] is ticket and self._has_one()))
                self._check_open()
                process = max(self._idle, key=lambda one: (document in one.documents, one.running))
                self._idle.remove(process)
                return process
            finally:
                self._waiting.remove(ticket)
                self._turn.notify_all()

    def _has_one(self) -> bool:
        """Whether a process is idle. While the first is starting it is waited for: another would not be there sooner."""
        return any(process.running for process in self._idle) if self._warming else bool(self._idle)

    def _give_back(self, process: PageProcess) -> None:
        while True:
            self._tidy(process)
            with self._turn:
                if not process.unwanted:
                    self._idle.append(process)
                    self._turn.notify_all()
                    return

    @staticmethod
    def _tidy(process: PageProcess) -> None:
        while process.unwanted:
            process.drop(process.unwanted.pop(), PageLimits().render_timeout)
        if process.opened >= _MOST_DOCUMENTS and not process.documents:
            process.stop()

    def _make_ready(self, process: PageProcess, reader: PageReader) -> None:
        """Running, and with room for the document."""
        self._start(process)
        if reader.id not in process.documents:
            while process.documents and sum(process.documents.values()) + len(reader.data) > self._room:
                process.drop(next(iter(process.documents)), reader.limits.render_timeout)
            self._start(process)

    def _start(self, process: PageProcess) -> None:
        try:
            process.start()
        except (Gone, OSError, RuntimeError) as error:  # RuntimeError: the interpreter is ending
            self._check_open()
            raise errors.OutOfMemory(
                "The process that opens documents could not be started.",
                hint="Check that memory and file handles are free and that OCR_MLX_RENDER_MEMORY_MB is not too low, "
                "or reinstall ocr_mlx with its dependencies.",
            ) from error

    def _check_open(self) -> None:
        if self._closed:
            raise errors.ShuttingDown("Documents are opened no longer.", hint="Start the server again, and repeat it.")

    @staticmethod
    def _open_in(process: PageProcess, reader: PageReader) -> Frame:
        header = {
            "op": "open",
            "document": reader.id,
            "kind": reader.kind,
            "password": reader.password,
            "max_pixels": reader.limits.max_pixels,
        }
        answer = _checked(process.ask(reader.limits.render_timeout, header, reader.data))
        process.documents[reader.id] = len(reader.data)
        process.opened += 1
        return answer


class PageReader:
    """One document. Its bytes are kept, so that it survives a new process. Pages may be read from several threads."""

    def __init__(
        self,
        processes: PageProcesses,
        document: int,
        data: bytes,
        kind: media.Kind,
        limits: PageLimits,
        password: str | None,
    ) -> None:
        self.id = document
        self.data = data
        self.kind = kind
        self.limits = limits
        self.password = password
        self.turn = threading.Lock()
        """Held by the thread that asks about this document."""
        self.closed = False
        self.most_bytes = 3 * limits.max_pixels
        self._processes = processes
        answer, _ = processes.ask(self)
        self.page_count: int = answer["pages"]

    def read(self, index: int, dpi: float) -> Page:
        """Decode page `index`, or draw it at `dpi`, or at less where it would break the pixel limit.

        BadImage, BadPdf, SourceTooLarge.
        """
        request = {
            "op": "page",
            "index": index,
            "dpi": dpi,
            "max_pixels": self.limits.max_pixels,
            "max_page_points": self.limits.max_page_points,
        }
        answer, pixels = self._processes.ask(self, request)
        try:
            return self._page(index, answer, pixels)
        except (LookupError, TypeError, ValueError) as error:  # no answer that a healthy process gives
            raise self.failed(request) from error

    def failed(self, request: Mapping[str, Any] | None, *, hung: bool = False) -> errors.PageError:
        """The error for a request that ended its process; `hung` where it was ended for taking too long."""
        name = "PDF" if self.kind == "PDF" else f"{media.name(self.kind)} image"
        paged = request is not None and self.kind in ("PDF", "TIFF")
        what = f"Page {request['index'] + 1} of the {name}" if request is not None and paged else f"The {name}"
        error = errors.BadPdf if self.kind == "PDF" else errors.BadImage
        how = "made its reader run out of memory or crash"
        if hung:
            how = f"was not ready within {self.limits.render_timeout:g} seconds and was given up"
        return error(f"{what} {how}.", hint=media.repair(self.kind))

    def close(self) -> None:
        """Forget the document here and in the processes."""
        self.closed = True
        self._processes.forget(self)
        self.data = b""

    def _page(self, index: int, answer: Mapping[str, Any], pixels: bytes) -> Page:
        from PIL import Image

        mode, size = answer["mode"], (answer["width"], answer["height"])
        image = Image.frombuffer(mode, size, pixels, "raw", mode, 0, 1)
        return Page(
            index=index,
            image=image if mode == "RGB" else image.convert("RGB"),
            width=size[0],
            height=size[1],
            dpi=answer["dpi"],
            origin="pdf" if self.kind == "PDF" else "image",
            text_layer=_words(answer["words"]),
        )


def _words(rows: list[list[Any]] | None) -> tuple[Word, ...] | None:
    if rows is None:
        return None
    return tuple(Word(text=text, box=(left, top, right, bottom)) for text, left, top, right, bottom in rows)


def _checked(frame: Frame) -> Frame:
    header = frame[0]
    if "code" in header:
        raise _TYPED[header["code"]](header["message"], hint=header["hint"])
    return frame
