"""What a person at a terminal sees on stderr while documents are read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from ocr_mlx.cli.live import Finished
from ocr_mlx.cli.unbroken import unbroken
from ocr_mlx.domain import DocumentStarted, Event, ModelProgress, PageDone, PageResult, PageStatus, TextDelta


class Reporter(Protocol):
    """Takes events from any thread."""

    def event(self, event: Event) -> None:
        """Something happened."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """So many bytes of something are done; all of them when both are equal, unknown how many when `total` is 0."""
        ...

    def page(self, label: str, page: Finished, reason: str) -> None:
        """A page of the document `label` is done; `reason` says why it is not whole."""
        ...

    def note(self, message: str) -> None:
        """Tell the user something on stderr."""
        ...

    def aside(self) -> Callable[[], None]:
        """Clear the display so that text can be written; call the result to go on."""
        ...


class Plain:
    """Notes only: for pipes, log files and `--quiet`."""

    def event(self, event: Event) -> None:
        """Only what a user must see: the licence of what is about to be downloaded."""
        if licence := _licence(event):
            self.note(licence)

    def progress(self, what: str, done: int, total: int) -> None:
        """Nothing to show."""

    def page(self, label: str, page: Finished, reason: str) -> None:
        """Only what is wrong with it."""
        if reason:
            result = page.result
            self.note(f"{label}: page {result.index + 1}: {result.status.value}: {reason}")

    def note(self, message: str) -> None:
        """One line on stderr."""
        if sys.stderr is not None:
            sys.stderr.write(message + "\n")
            sys.stderr.flush()

    def aside(self) -> Callable[[], None]:
        """Nothing to clear."""
        return lambda: None


class Terminal:
    """Bars: the download, and the pages with tokens per second."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._model = self._bars.add_task("model", total=None, visible=False, note="")
        self._pages = self._bars.add_task("pages", total=0, visible=False, note="")
        self._total = self._done = self._tokens = 0
        self._first: float | None = None

    def start(self) -> None:
        """Show the bars."""
        with unbroken():
            self._bars.start()

    def stop(self) -> None:
        """Clear the bars."""
        with unbroken():
            self._bars.stop()

    def event(self, event: Event) -> None:
        """Move a bar."""
        if licence := _licence(event):
            self.note(licence)
        match event:
            case ModelProgress(model=model, stage="ready"):
                self.progress(model, 1, 1)
            case ModelProgress(model=model, stage=stage, done=done, total=total):
                self.progress(f"{stage} {model}", done, total)
            case DocumentStarted(pages=pages):
                self._total += len(pages)
            case TextDelta(tokens=tokens):
                self._first = self._first or time.monotonic()
                self._tokens += tokens
            case PageDone():
                self._done += 1
            case _:
                return
        self._bars.update(
            self._pages, total=self._total, completed=self._done, visible=self._total > 0, note=self._rate()
        )

    def progress(self, what: str, done: int, total: int) -> None:
        """Move the bar of bytes; it goes when all are done."""
        self._bars.update(
            self._model,
            description=what,
            total=total or None,
            completed=done,
            visible=not total or done < total,
            note=f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else "",
        )

    def page(self, label: str, page: Finished, reason: str) -> None:
        """One line above the bars: what became of it, and how fast."""
        self.note(f"{label}: {page.place}: {_told(page.result, reason)}")

    def note(self, message: str) -> None:
        """One line above the bars."""
        with unbroken():
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def aside(self) -> Callable[[], None]:
        """Clear the bars; the result shows them again."""
        self.stop()
        return self.start

    def _rate(self) -> str:
        elapsed = time.monotonic() - self._first if self._first is not None else 0.0
        pages = f"{self._done} of {self._total} pages"
        return f"{pages}, {self._tokens / elapsed:.0f} tokens/s" if self._tokens and elapsed > 0.2 else pages


def _told(page: PageResult, reason: str) -> str:
    """A page's line: its status where it is not simply read, its tokens and their rate, and what made it quick."""
    said = [f"{page.status.value}: {reason}"] if reason else []
    if page.status is PageStatus.BLANK:
        said.append("blank")
    if page.cached:
        said.append("read before")
    elif page.generated_tokens and page.seconds:
        said.append(f"{page.generated_tokens} tokens, {page.generated_tokens / page.seconds:.0f} tokens/s")
    if page.drafted:
        said.append(f"{page.accepted} of {page.drafted} drafted tokens taken")
    return ", ".join(said) or page.status.value


def _licence(event: Event) -> str:
    if isinstance(event, ModelProgress) and event.licence:
        return f"Downloading {event.model}. Licence of its weights: {event.licence}"
    return ""


@contextmanager
def reporter(quiet: bool) -> Iterator[Reporter]:
    """Bars where stderr is a terminal and nobody asked for silence, notes elsewhere."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield Plain()
        return
    terminal = Terminal()
    terminal.start()
    try:
        yield terminal
    finally:
        terminal.stop()
