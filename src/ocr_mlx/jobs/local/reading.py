"""One job in the hands of this process: page after page through the engine, and whatever is done is kept at once."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Final, Literal

from ocr_mlx.domain import DocumentStarted, Event, PageDone, PageError, PageStarted, PageStatus
from ocr_mlx.errors import (
    Cancelled,
    DecodeError,
    JobNotFound,
    OcrMlxError,
    QueueFull,
    ShuttingDown,
    SourceNotFound,
)
from ocr_mlx.inference.failure import as_error
from ocr_mlx.jobs.base import Reader
from ocr_mlx.jobs.local.store import SqliteStore
from ocr_mlx.jobs.records import Job, JobState, outcome, too_late
from ocr_mlx.utils.logs import REQUEST_ID

log = logging.getLogger(__name__)

PAGES_AT_A_TIME: Final = 128
"""A multiple of what any mode reads in one prompt, so that the prompts are those of an undivided document."""
MOST_ATTEMPTS: Final = 5
"""So many processes may die over a page before the job is given up."""
_RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""Pauses before a full engine is asked again; the last one repeats."""

Why = Literal["final", "late", "stopped", "yielded"]


class Reading:
    """A claimed job. `read` belongs to one thread; the rest may be called from others."""

    def __init__(self, store: SqliteStore, job: Job, *, page_seconds: float, clock: Callable[[], float]) -> None:
        """`page_seconds` of decoding for each page, on `clock`."""
        self.job = job
        self._store = store
        self._page_seconds = page_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._cancel = threading.Event()
        self._ended: Why | None = None
        self._deadline: float | None = None
        self._decoding: set[int] = set()
        self._last: set[int] | None = None
        """The pages that may still finish, once it is to stop or to yield."""
        self._last_why: Why = "stopped"
        self._since = clock()
        self._problem: Exception | None = None
        """Of the store."""
        self._refusal: ShuttingDown | None = None
        self._stored = 0
        self._is_counted = False

    def end(self, why: Why) -> None:
        """Cut it short; the first reason counts."""
        with self._lock:
            self._end(why)

    def stop(self) -> None:
        """Let the pages that are being decoded finish, and begin no other."""
        self._finish_last("stopped")

    def give_way(self) -> None:
        """The same, and go behind the jobs that wait."""
        self._finish_last("yielded")

    @property
    def turn(self) -> float:
        """Seconds that it has had; 0 as long as it has no page to show for them."""
        return self._clock() - self._since if self._stored else 0.0

    @property
    def is_ending(self) -> bool:
        """Whether it was told to stop, to yield or to end."""
        return self._last is not None or self._ended is not None

    def look(self) -> None:
        """End it when it is late."""
        with self._lock:
            if self._deadline is not None and self._clock() >= self._deadline:
                self._end("late")

    def read(self, reader: Reader) -> bool:
        """Read until the job is final, or others wait, or it is cut short; whether it became final here.

        Raises what the store raises, except for a job that was deleted, and ShuttingDown when the engine takes no more.
        """
        REQUEST_ID.set(self.job.id)
        try:
            if self.job.attempts >= MOST_ATTEMPTS:
                return self._finish(JobState.FAILED, _given_up())
            self._store.begin(self.job.id)
            self._tell_of_restart()
            while (pages := self._store.missing(self.job.id)) and self._ended is None:
                problem = self._read_some(reader, pages[:PAGES_AT_A_TIME])
                if problem is not None:
                    return self._finish(JobState.FAILED, PageError(code=problem.code, message=str(problem)))
                if self._ended is None and self._store.is_waiting():
                    break
            return self._leave()
        except JobNotFound:
            return False

    def _tell_of_restart(self) -> None:
        job = self.job
        if job.state is JobState.PROCESSING and not self._store.has_read(job.id):
            if missing := self._store.missing(job.id):
                log.info("job %s: goes on at page %d of %d", job.id, job.pages.index(missing[0]) + 1, job.total)

    def _read_some(self, reader: Reader, pages: tuple[int, ...]) -> OcrMlxError | None:
        """Why the document cannot be read, None otherwise."""
        try:
            data = self._store.document(self.job.id)
        except SourceNotFound as problem:
            return problem
        request = self.job.request.asking(data, self.job.filename, pages)
        before = self._stored
        log.debug("job %s: %d pages to read, from page %d", self.job.id, len(pages), pages[0] + 1)
        for attempt in itertools.count():
            try:
                reader.run(request, lambda event: self._take(event, len(pages)), self._cancel)
                break
            except QueueFull:
                if self._cancel.wait(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)]):
                    return None
            except Cancelled:
                self.end("stopped")
                return None
            except ShuttingDown as problem:
                self._refusal = problem
                self.end("stopped")
                return None
            except Exception as problem:
                return as_error(problem, "reading a job")
            finally:
                self._deadline = None
        if self._problem is not None:
            raise self._problem
        if self._stored == before and self._ended is None:
            return DecodeError("The engine gave no result for a page.", hint="Try again, or report it with the log.")
        return None

    def _take(self, event: Event, pages: int) -> None:
        match event:
            case DocumentStarted():
                self._deadline = self._clock() + pages * self._page_seconds
            case PageStarted():
                self._begin(event.page)
            case PageDone():
                self._keep(event)

    def _begin(self, page: int) -> None:
        """From the first page on, a death of this process may be the document's doing."""
        with self._lock:
            self._decoding.add(page)
        if self._is_counted:
            return
        self._is_counted = True
        try:
            self._store.decoding(self.job.id)
        except OcrMlxError as problem:
            self._problem = problem
            self._cancel.set()

    def _keep(self, event: PageDone) -> None:
        """Store a result; a cancelled page has none, and is read another time."""
        page = event.result
        if page.status is PageStatus.CANCELLED:
            self.end("stopped")
            return
        try:
            if self._problem is None and self._store.put_page(self.job.id, page):
                self._stored += 1
                log.debug("job %s: page %d is read", self.job.id, page.index + 1)
            else:
                log.debug("job %s: page %d was read in vain", self.job.id, page.index + 1)
                self.end("final")
        except OcrMlxError as problem:  # of the store, and none of the document's
            self._problem = problem
            self._cancel.set()
        with self._lock:
            self._decoding.discard(page.index)
            self._check_last()

    def _leave(self) -> bool:
        if self._ended == "final":
            return False
        if not self._store.missing(self.job.id):
            return self._conclude()
        if self._ended == "late":
            return self._finish(JobState.FAILED, too_late(self._page_seconds))
        self._store.release(self.job.id, to_the_back=self._ended != "stopped")
        if self._refusal is not None:  # so that nobody takes it up again at once
            raise self._refusal
        return False

    def _conclude(self) -> bool:
        """Every page has a result: say what the whole came to."""
        return self._finish(*outcome(self._store.get(self.job.id), self._store.pages(self.job.id)))

    def _finish(self, state: JobState, error: PageError | None = None) -> bool:
        log.info("job %s: %s%s", self.job.id, state, f" ({error.code})" if error else "")
        return self._store.finish(self.job.id, state, error)

    def _end(self, why: Why) -> None:
        self._ended = self._ended or why
        self._cancel.set()

    def _finish_last(self, why: Why) -> None:
        with self._lock:
            self._last = set(self._decoding)
            self._last_why = why
            self._check_last()

    def _check_last(self) -> None:
        if self._last is not None and not self._last & self._decoding:
            self._end(self._last_why)


def _given_up() -> PageError:
    return PageError(
        code=DecodeError.code,
        message=(
            f"The server ended {MOST_ATTEMPTS} times while it read this document, and no page of it was done in between. "
            "It was given up so that other jobs can go on. Try another model, fewer pages or a smaller resolution."
        ),
    )
