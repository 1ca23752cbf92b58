"""Reads units of jobs: takes one from the queue, claims it, reads it with this machine's engine, stores its results.

Nothing here decides what a job comes to: a unit that is not stored, for whatever reason, is claimed again by somebody.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from ocr_mlx.domain import DocumentStarted, Event, Finish, PageDone, PageError, PageResult, PageStatus
from ocr_mlx.errors import (
    BadPdf,
    Cancelled,
    DecodeError,
    InvalidOption,
    JobNotFound,
    JobsUnavailable,
    ModelError,
    OcrMlxError,
    OutOfMemory,
    PromptTooLong,
    QueueFull,
    RemoteFailed,
    ShuttingDown,
    SourceError,
)
from ocr_mlx.errors import PageError as PageProblem
from ocr_mlx.inference.failure import as_error
from ocr_mlx.jobs.base import Reader
from ocr_mlx.jobs.records import Job, JobState
from ocr_mlx.jobs.redis.rows import OtherVersion
from ocr_mlx.jobs.redis.store import RedisStore
from ocr_mlx.jobs.redis.sweep import settle
from ocr_mlx.jobs.redis.units import LONGEST_REST, Claim, Unit, Units
from ocr_mlx.utils.logs import REQUEST_ID, counted

log = logging.getLogger(__name__)
T = TypeVar("T")

MOST_TRIES: Final = 5
"""A unit that was begun so often without a result is given up: its pages fail."""
SUSPECT_TRIES: Final = 2
"""After so many, its worker may have died of it: units like that are read one at a time."""
_BEAT_SECONDS = 1.0
_LONGEST_BEAT = 5.0
_LONGEST_INSISTING = 10.0
_DOCUMENT_BYTES = 256 * 1024 * 1024
_PAGE_FAULTS = (SourceError, PageProblem, InvalidOption, PromptTooLong)
_OF_THIS_MACHINE = frozenset((OutOfMemory.code, RemoteFailed.code, ShuttingDown.code))
"""Pages that failed so are not stored: another try, perhaps elsewhere, may read them."""
_PERHAPS_OF_THIS_MACHINE = frozenset((BadPdf.code, DecodeError.code))
"""A page that was not rendered in time, because the machine slept or had too much to do, looks like a bad one: one more try."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Held:
    """A unit in work. `left` are its pages without a stored result; `over` when there is nothing to go on with."""

    job: Job
    claim: Claim
    left: set[int]
    cancel: threading.Event = field(default_factory=threading.Event)
    decoding: bool = False
    over: bool = False
    trouble: str = ""
    """Why something is left, as an error's code."""
    tried: bool = True
    """Whether this counts as a try of the unit."""


class UnitReader:
    """The way of one unit, on the queue's threads. Thread-safe."""

    def __init__(
        self,
        store: RedisStore,
        units: Units,
        send: Callable[[Unit], None],
        engine: Reader,
        *,
        longest_rest: float = LONGEST_REST,
    ) -> None:
        """`send` puts a unit back into the queue; `longest_rest` in seconds between two tries of a unit."""
        self._store = store
        self._units = units
        self._send = send
        self._engine = engine
        self._longest_rest = longest_rest
        self._documents = _Documents(store)
        self._held: set[_Held] = set()
        self._lock = threading.Lock()
        self._alone = threading.Lock()
        self._leaving = threading.Event()

    def read(self, job_id: str, number: int) -> None:
        """Read a unit, unless that was done or is being done. Never raises; waits as long as Redis is gone."""
        try:
            job, unit = self._insist(lambda: self._units.find(job_id, number))
            if self._leaving.is_set():
                self._send(unit)
                return
            claim = self._claim(unit)
            if claim is None:
                return
            rest = self._read(job, claim) if claim.tries <= SUSPECT_TRIES else self._read_alone(job, claim)
            self._leaving.wait(rest)  # this machine may be the reason, and others have more luck meanwhile
        except OtherVersion as error:
            log.warning("job %s, left to others: %s", job_id, error)
        except (JobNotFound, JobsUnavailable):
            return
        except Exception as problem:
            as_error(problem, "taking pages of a job")

    def give_up(self) -> None:
        """Cancel what is being read; its pages go back to the queue."""
        self._leaving.set()
        for held in self._in_work():
            held.cancel.set()

    def beat(self) -> int:
        """Keep the claims, and cancel what nobody wants any more; how many units are in work. Raises JobsUnavailable."""
        in_work = self._in_work()
        for held in in_work:
            try:
                wanted = self._units.renew(held.claim, decoding=held.decoding)
            except JobNotFound:
                wanted = False
            if not wanted:
                held.over = True
                held.cancel.set()
        return len(in_work)

    @property
    def busy(self) -> int:
        """How many units are in work."""
        return len(self._in_work())

    def _in_work(self) -> tuple[_Held, ...]:
        with self._lock:
            return tuple(self._held)

    def _claim(self, unit: Unit) -> Claim | None:
        owner = uuid.uuid4().hex
        claim = self._insist(lambda: self._units.claim(unit, owner))
        return claim if isinstance(claim, Claim) else None

    def _read_alone(self, job: Job, claim: Claim) -> float:
        """Like `_read`, when no other suspect is read here; until then somebody else may take it."""
        self._insist(lambda: self._units.release(claim, tried=False))
        with self._alone:
            again = self._claim(claim.unit)
            return 0.0 if again is None else self._read(job, again)

    def _read(self, job: Job, claim: Claim) -> float:
        """How many seconds to pause after it."""
        held = _Held(job=job, claim=claim, left=set(claim.missing))
        with self._lock:
            self._held.add(held)
        try:
            if claim.tries > MOST_TRIES:
                self._fail(held, _hopeless(claim))
            else:
                self._run(held)
            return self._conclude(held)
        finally:
            with self._lock:
                self._held.discard(held)

    def _run(self, held: _Held) -> None:
        """Read the unit; what cannot be read and cannot be tried again becomes failed pages."""
        REQUEST_ID.set(held.job.id)
        try:
            data = self._insist(lambda: self._documents.get(held.job.id))
            request = held.job.request.asking(data, held.job.filename, held.claim.missing)
            self._engine.run(request, lambda event: self._note(held, event), held.cancel)
        except (JobNotFound, JobsUnavailable):
            raise
        except (Cancelled, ShuttingDown, QueueFull) as error:
            held.trouble, held.tried = error.code, False
        except Exception as problem:
            self._judge(held, as_error(problem, "reading pages of a job"))

    def _judge(self, held: _Held, error: OcrMlxError) -> None:
        asked_first = held.job.pages[0] in held.claim.unit.pages
        is_last_try = held.claim.tries >= MOST_TRIES
        if (isinstance(error, ModelError) and is_last_try) or (isinstance(error, InvalidOption) and asked_first):
            reason = PageError(code=error.code, message=str(error))
            self._insist(lambda: self._store.finish(held.job.id, JobState.FAILED, reason))
            held.over = True
        elif isinstance(error, _PAGE_FAULTS) or is_last_try:
            self._fail(held, error)
        else:
            held.trouble = error.code

    def _note(self, held: _Held, event: Event) -> None:
        """Store a page as soon as it is read."""
        held.decoding = held.decoding or isinstance(event, DocumentStarted)
        if not isinstance(event, PageDone) or event.result.status is PageStatus.CANCELLED:
            return
        error = event.result.error
        if error is None or not self._comes_again(held, error.code):
            self._store_page(held, event.result)

    def _comes_again(self, held: _Held, code: str) -> bool:
        """Whether a failed page is left for another try, or for whoever took it while this machine slept."""
        if not self._insist(lambda: self._units.renew(held.claim, decoding=held.decoding)):
            held.over = True
            held.cancel.set()
            return True
        most = MOST_TRIES if code in _OF_THIS_MACHINE else SUSPECT_TRIES if code in _PERHAPS_OF_THIS_MACHINE else 0
        held.tried = held.tried and code != ShuttingDown.code
        if held.tried and held.claim.tries >= most:
            return False
        held.trouble = code
        return True

    def _store_page(self, held: _Held, page: PageResult) -> None:
        self._insist(lambda: self._store.put_page(held.job.id, page))
        held.left -= {page.index, *page.following}
        if held.left:
            self._insist(lambda: self._units.progressed(held.claim))
        log.info("job %s, page %d: %s in %.1f s", held.job.id, page.index + 1, page.status, page.seconds)

    def _fail(self, held: _Held, error: OcrMlxError) -> None:
        reason = PageError(code=error.code, message=str(error))
        for index in sorted(held.left):
            page = PageResult(index=index, status=PageStatus.FAILED, finish=Finish.ERROR, error=reason)
            self._store_page(held, page)

    def _conclude(self, held: _Held) -> float:
        """End the job when this was the last of it; let go of what was not read. How many seconds to pause."""
        if held.over:
            return 0.0
        if not held.left:
            self._insist(lambda: settle(self._store, held.job.id))
            return 0.0
        if self._leaving.is_set():
            self._units.release(held.claim, tried=False)
            self._send(held.claim.unit)
            return 0.0
        return self._rest(held)

    def _rest(self, held: _Held) -> float:
        """Another try is due in a while, which the sweep sees to."""
        rest = min(2.0**held.claim.tries, self._longest_rest)
        self._insist(lambda: self._units.release(held.claim, rest=rest, tried=held.tried))
        reason = held.trouble or "no result"
        log.warning(
            "job %s: %s left, to be tried again in %s (%s, try %d of %d)",
            *(held.job.id, counted(len(held.left), "page"), counted(rest, "second")),
            *(reason, held.claim.tries, MOST_TRIES),
        )
        return rest

    def _insist(self, call: Callable[[], T]) -> T:
        """Call until Redis answers. Raises JobsUnavailable only when this worker is to end, and OtherVersion."""
        delay = 0.2
        while True:
            try:
                return call()
            except OtherVersion:
                raise
            except JobsUnavailable:
                if self._leaving.wait(delay):
                    raise
                delay = min(delay * 2, _LONGEST_INSISTING)


class _Documents:
    """The documents of the last jobs, up to a number of bytes: eight pages of one do not fetch it eight times."""

    def __init__(self, store: RedisStore, most: int = _DOCUMENT_BYTES) -> None:
        self._store = store
        self._most = most
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, job_id: str) -> bytes:
        """Raises JobNotFound and JobsUnavailable."""
        with self._lock:
            data = self._kept.pop(job_id, None)
            if data is None:
                data = self._store.document(job_id)
            self._kept[job_id] = data
            while sum(map(len, self._kept.values())) > self._most:
                self._kept.popitem(last=False)
            return data


class Beat:
    """A thread that keeps the claims of a reader, and says in the log when Redis is gone and when it is back."""

    def __init__(self, reader: UnitReader, present: Callable[[], None], *, address: str) -> None:
        """`present` tells Redis, which is at `address`, of this worker."""
        self._reader = reader
        self._address = address
        self._present = present
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._live, name="ocr-beat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._ending.set()
        self._thread.join()

    def _live(self) -> None:
        wait = _BEAT_SECONDS
        while not self._ending.wait(wait):
            try:
                self._reader.beat()
                self._present()
            except JobsUnavailable as error:
                if wait < _LONGEST_BEAT:
                    wait = min(wait * 2, _LONGEST_BEAT)
                    units, again = counted(self._reader.busy, "unit"), counted(wait, "second")
                    log.warning(
                        "%s It is at %s; %s in work, trying again in %s", error.message, self._address, units, again
                    )
                continue
            if wait > _BEAT_SECONDS:
                log.info("the job queue (Redis) answers again")
            wait = _BEAT_SECONDS


def _hopeless(claim: Claim) -> OcrMlxError:
    return DecodeError(
        f"The page was begun {claim.tries - 1} times and never finished: whoever reads it ends without a word.",
        hint="It may need more memory than the workers have; try another model or a smaller picture.",
    )
