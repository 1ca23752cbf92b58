"""Jobs in Redis, for any number of servers and workers. One Redis, not a cluster: a job's keys are found by its id.

`job:ID` is a hash of what changes, with the rest as JSON in `record`; beside it `:pages` (index -> result), `:read` (the
indices that have a result, alone or with another page), `:units` (see redis_units) and `:document`. The sorted sets
`jobs`, `open`, `final` and `webhooks` hold ids by the time of creation, last survey, expiry and next attempt.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from ocr_mlx.domain import PageError, PageResult
from ocr_mlx.errors import JobsUnavailable, QueueFull, SourceNotFound, SourceTooLarge
from ocr_mlx.jobs.records import DELIVERY, ERROR, JOB, PAGE, Delivery, Job, JobState, unknown
from ocr_mlx.jobs.redis.rows import job_of, jobs_of, parsed
from ocr_mlx.jobs.redis.scripts import SCRIPTS

log = logging.getLogger(__name__)

PREFIX: Final = "ocr_mlx:"
CONNECT_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 5.0
_PING_SECONDS = 0.9
_SILENT_SECONDS = 1.5
"""A failure that took so long was no answer."""
_REST_SECONDS = 2.0
"""After no answer, how long nobody asks: callers would hold all threads of a server."""
_LARGEST = 512 * 1024 * 1024
"""Redis' own limit for one value, in bytes."""
_KEEPS = "noeviction"
"""The policy of a full Redis that throws nothing away."""
_FULL = 0.9
"""No new job above this part of Redis' memory: the rest is for results."""
_SPARE_SECONDS = 86400.0
"""How much longer than its time a record stays where nobody runs that would remove it."""
_PARTS = ("", ":pages", ":read", ":units", ":document")
_INDEXES = ("jobs", "open", "final", "webhooks")


class _Client(redis.Redis):
    """A timeout is a lost connection: Dramatiq knows only the latter."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As redis-py's."""
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except redis.TimeoutError as error:
            raise redis.ConnectionError("no answer in time") from error


def connect(url: str, *, answer: float = ANSWER_SECONDS, retries: int = 1) -> Any:
    """A client that gives up soon; connects when first used. `answer` in seconds, `retries` of a lost connection.

    Raises JobsUnavailable for an address that is none.
    """
    try:
        return _Client.from_url(
            url,
            socket_connect_timeout=min(CONNECT_SECONDS, answer),
            socket_timeout=answer,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), retries, supported_errors=(redis.ConnectionError,)),
        )
    except ValueError:
        raise JobsUnavailable("OCR_MLX_REDIS_URL is no address of a Redis.", hint=_HINT) from None


_HINT = "Check that Redis runs, and OCR_MLX_REDIS_URL."


class RedisRefuses(JobsUnavailable):
    """The user, the password, or what that user may do is not enough; that does not pass by itself."""


@contextmanager
def reached() -> Iterator[None]:
    """Errors of Redis become JobsUnavailable, which quotes neither address nor password."""
    try:
        yield
    except (redis.AuthenticationError, NoPermissionError):
        raise RedisRefuses("Redis refuses the user or password in OCR_MLX_REDIS_URL.") from None
    except (redis.ConnectionError, redis.TimeoutError):
        raise unreachable() from None
    except redis.RedisError as error:
        if "maxmemory" in str(error):
            raise JobsUnavailable(
                "The job queue (Redis) is full.", hint="Try again later, or raise its maxmemory."
            ) from None
        raise JobsUnavailable(
            f"The job queue (Redis) refused a command ({type(error).__name__}).", hint="Its own log says why."
        ) from None


def unreachable() -> JobsUnavailable:
    """Without the address: callers of the API read it too."""
    return JobsUnavailable("The job queue (Redis) cannot be reached.", hint=_HINT)


class RedisStore:
    """A JobStore. Every method may also raise JobsUnavailable."""

    def __init__(
        self,
        url: str,
        *,
        ttl: float = 3600.0,
        most_waiting: int = 1000,
        together: Callable[[str, str], int] = lambda _model, _mode: 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ttl` seconds that the record of a job which is added here outlives its end; `most_waiting` jobs that are not final.

        `together` says for a model and a mode how many pages are read in one prompt, 0 for all of them.
        """
        self.client = connect(url)
        self._pinger = connect(url, answer=_PING_SECONDS, retries=0)
        self._ttl = ttl
        self._most_waiting = most_waiting
        self._together = together
        self._clock = clock
        self._silence = threading.Lock()
        self._silent_until = 0.0
        self._is_warned = False
        self._scripts = {name: self.client.register_script(text) for name, text in SCRIPTS.items()}

    # --- JobStore

    def add(self, job: Job, data: bytes) -> None:
        if len(data) > _LARGEST:
            raise SourceTooLarge("Redis keeps documents of up to 512 MiB.", hint="Split the document.")
        record = keys(job.id)
        together = self._together(job.request.model, job.request.prompt.mode) or job.total
        fields = {
            "record": JOB.dump_json(job),
            "state": str(job.state),
            "done": 0,
            "updated": job.updated,
            "delivery": DELIVERY.dump_json(job.delivery),
            "together": together,
            "ttl": self._ttl,
        }
        with self.reached():
            self._check_room(len(data))
            with self.client.pipeline(transaction=True) as pipe:
                pipe.set(record[4], data)
                pipe.hset(record[0], mapping=fields)
                pipe.zadd(index("jobs"), {job.id: job.created})
                pipe.zadd(index("open"), {job.id: job.created})
                pipe.execute()

    def get(self, job_id: str) -> Job:
        return self.details(job_id)[0]

    def details(self, job_id: str) -> tuple[Job, int]:
        """The job, and how many of its pages make a unit."""
        with self.reached():
            fields = self.client.hgetall(keys(job_id)[0])
        if b"record" not in fields:
            raise unknown()
        return job_of(fields), int(fields[b"together"])

    def listed(self, *, limit: int, state: JobState | None = None) -> tuple[Job, ...]:
        found: list[Job] = []
        start, step = 0, max(limit, 100)
        while len(found) < limit:
            with self.reached():
                ids = self.client.zrevrange(index("jobs"), start, start + step - 1)
            if not ids:
                break
            found += [job for job in self._jobs(ids) if state in (None, job.state)]
            start += step
        return tuple(found[:limit])

    def document(self, job_id: str) -> bytes:
        with self.reached():
            data: bytes | None = self.client.get(keys(job_id)[4])
        if data is not None:
            return data
        if self.get(job_id).state.final:
            raise unknown()
        raise SourceNotFound("The document of this job is gone from the job queue (Redis).", hint="Send it again.")

    def pages(self, job_id: str) -> tuple[PageResult, ...]:
        record = keys(job_id)
        # No transaction, which a full Redis refuses. A record that is there after its pages were read was there before.
        with self.reached(), self.client.pipeline(transaction=False) as pipe:
            pipe.hvals(record[1])
            pipe.hget(record[0], "record")
            stored, job = pipe.execute()
        if job is None:
            raise unknown()
        order = {number: place for place, number in enumerate(parsed(JOB, job).pages)}
        found = [parsed(PAGE, page) for page in stored]
        return tuple(sorted(found, key=lambda page: order.get(page.index, page.index)))

    def begin(self, job_id: str) -> Job:
        self.run("begin", keys(job_id)[:1], self._clock())
        return self.get(job_id)

    def put_page(self, job_id: str, page: PageResult) -> bool:
        arguments = (self._clock(), page.index, PAGE.dump_json(page), *page.following)
        return bool(self.run("put_page", keys(job_id)[:3], *arguments))

    def finish(self, job_id: str, state: JobState, error: PageError | None = None) -> bool:
        job = self.get(job_id)
        kept = replace(job, request=replace(job.request, password=None))
        return bool(
            self.run(
                "finish",
                (*keys(job_id), index("open"), index("final"), index("webhooks")),
                job_id,
                self._clock(),
                str(state),
                b"" if error is None else ERROR.dump_json(error),
                JOB.dump_json(kept),
                int(job.delivery.state == "waiting"),
                self._ttl,
                _SPARE_SECONDS,
            )
        )

    def delete(self, job_id: str) -> None:
        if not self.run("delete", (*keys(job_id), *map(index, _INDEXES)), job_id):
            raise unknown()

    def deliver(self, job_id: str, change: Callable[[Delivery], Delivery]) -> Job:
        while True:
            with self.reached():
                before = self.client.hget(keys(job_id)[0], "delivery")
            if before is None:
                raise unknown()
            after = change(parsed(DELIVERY, before))
            due = (after.next_at or self._clock()) if after.state == "waiting" else ""
            record = (keys(job_id)[0], index("webhooks"))
            if self.run("deliver", record, job_id, before, DELIVERY.dump_json(after), due):
                return self.get(job_id)

    def due(self, now: float, *, lease: float) -> tuple[Job, ...]:
        return self._jobs(self.run("due", (index("webhooks"),), now, now + lease))

    def expire(self, now: float) -> None:
        with self.reached():
            old = self.client.zrangebyscore(index("final"), "-inf", now, start=0, num=1000)
            waiting = self.client.zmscore(index("webhooks"), old) if old else []
        for job_id in (one for one, due in zip(old, waiting, strict=True) if due is None):
            self.run("delete", (*keys(job_id.decode()), *map(index, _INDEXES)), job_id)

    def current_model(self) -> str | None:
        with self.reached():
            name = self.client.get(index("current_model"))
        return None if name is None else name.decode()

    def set_current_model(self, name: str) -> None:
        with self.reached():
            self.client.set(index("current_model"), name)

    def ping(self) -> bool:
        try:
            return self.answers()
        except JobsUnavailable:
            return False

    def answers(self) -> bool:
        """Like `ping`, but raises RedisRefuses."""
        try:
            with reached():
                return bool(self._pinger.ping())
        except RedisRefuses:
            raise
        except JobsUnavailable:
            return False

    def close(self) -> None:
        self.client.close()
        self._pinger.close()

    # --- for what stands beside it

    @property
    def address(self) -> str:
        """Where Redis is, for the log: host and port, or the socket."""
        options = self.client.get_connection_kwargs()
        return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Like the function; fails at once while Redis was silent lately, so that callers do not pile up."""
        self._check_silence()
        began = time.monotonic()
        try:
            with reached():
                yield
        except JobsUnavailable:
            if time.monotonic() - began >= _SILENT_SECONDS:
                self._silent_until = time.monotonic() + _REST_SECONDS
            raise

    def _check_silence(self) -> None:
        """One caller at a time asks, and soon gives up, whether Redis is back."""
        with self._silence:
            if not self._silent_until:
                return
            is_early = time.monotonic() < self._silent_until
            if not is_early:
                self._silent_until = time.monotonic() + _REST_SECONDS
        if is_early or not self.answers():
            raise unreachable()
        self._silent_until = 0.0

    def run(self, name: str, record: tuple[str, ...], *arguments: Any) -> Any:
        """One of the scripts. Raises JobNotFound where it says that there is no such job."""
        with self.reached():
            answer = self._scripts[name](keys=record, args=arguments)
        if answer is None:
            raise unknown()
        return answer

    def _check_room(self, size: int) -> None:
        """Raise QueueFull for too many jobs, and before Redis is so full that workers cannot go on."""
        if self.client.zcard(index("open")) >= self._most_waiting:
            raise QueueFull(f"{self._most_waiting} jobs are waiting already.", hint="Try again in a moment.")
        try:
            memory = self.client.info("memory")
        except redis.ResponseError:  # not every account may ask, and not every server answers
            return
        most = memory.get("maxmemory", 0)
        if most:
            self._check_policy(str(memory.get("maxmemory_policy", _KEEPS)))
        if most and memory.get("used_memory", 0) + size > _FULL * most:
            raise QueueFull("The job queue (Redis) is nearly full.", hint="Try again when some jobs have ended.")

    def _check_policy(self, policy: str) -> None:
        """Say once where Redis throws away what it has no room for: documents and results would be gone without a word."""
        if policy != _KEEPS and not self._is_warned:
            self._is_warned = True
            log.warning("a full Redis throws jobs away (maxmemory-policy %s): set it to %s", policy, _KEEPS)

    def _jobs(self, ids: list[bytes]) -> tuple[Job, ...]:
        with self.reached(), self.client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(keys(job_id.decode())[0])
            return tuple(jobs_of(pipe.execute()))


def keys(job_id: str) -> tuple[str, ...]:
    """The job's keys: itself, pages, read, units, document."""
    return tuple(f"{PREFIX}job:{job_id}{part}" for part in _PARTS)


def index(name: str) -> str:
    """The key of what is not a job's."""
    return PREFIX + name
