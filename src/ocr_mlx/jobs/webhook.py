"""Tells callers that their job has ended: at least once, signed, with growing delays, and never to a private address."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field, replace
from typing import Final

from ocr_mlx.errors import EngineError, JobNotFound, ShuttingDown
from ocr_mlx.jobs.base import JobStore
from ocr_mlx.jobs.records import Delivery, Job
from ocr_mlx.jobs.wire import webhook_body
from ocr_mlx.pages import addresses
from ocr_mlx.utils.logs import counted, where

log = logging.getLogger(__name__)

SIGNATURE: Final = "X-OCR-MLX-Signature"
TIMESTAMP: Final = "X-OCR-MLX-Timestamp"
DELIVERY: Final = "X-OCR-MLX-Delivery"
_AT_ONCE = 4
_LOOK_SECONDS = 2.0
_LONGEST_PAUSE = 8.0
"""While the store fails: the pauses grow so far."""
_CLOSING_SECONDS = 5.0
_SPARE_SECONDS = 30.0
"""How much longer than one attempt a job is lent to the one who delivers it."""
_FIRST_DELAY, _LONGEST_DELAY = 5.0, 3600.0
_EVENTS = uuid.UUID("6f0d6a0e-5a53-4c5c-8f0e-0f5d3b0f7a11")


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookOptions:
    """`timeout` seconds for one attempt; `retries` after the first; `secret` signs; `private` allows any address.

    `drain` seconds for attempts in flight at the end.
    """

    timeout: float = 30.0
    retries: int = 5
    secret: str = field(default="", repr=False)
    private: bool = False
    drain: float = 5.0


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """`sha256=` and the HMAC of `timestamp.body`, so that neither can be changed or replayed much later."""
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={mac.hexdigest()}"


class Webhooks:
    """Delivers what a store says is due, on threads of its own, until it is closed."""

    def __init__(
        self,
        store: JobStore,
        options: WebhookOptions,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        resolver: addresses.Resolver = addresses.resolve,
    ) -> None:
        """`clock` tells Unix seconds; `jitter` numbers from 0 to 1."""
        self._store = store
        self._options = options
        self._clock = clock
        self._jitter = jitter
        self._resolver = resolver
        self._lease = options.timeout + _SPARE_SECONDS
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._flying: set[Future[None]] = set()
        self._failing = ""
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ocr-webhook")

    def check(self, url: str) -> None:
        """Raise SourceForbidden for an address that nothing may be sent to."""
        from ocr_mlx.jobs.posting import check_address

        check_address(url, private=self._options.private, resolver=self._resolver)

    def start(self) -> None:
        """Begin to deliver. Returns at once."""
        if self._thread is None and not self._stopping.is_set():
            self._thread = threading.Thread(target=self._deliver_on, name="ocr-webhooks", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """A job has ended."""
        self._news.set()

    def close(self) -> None:
        """End, once attempts in flight are recorded, or their time is over; the rest is the next process's."""
        self._stopping.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait_for(self._flying, min(self._options.drain, _CLOSING_SECONDS))

    def step(self) -> int:
        """Hand out what is due; how many that was. Attempts run beside this."""
        now = self._clock()
        jobs = self._store.due(now, lease=self._lease)
        for job in jobs:
            attempt = self._pool.submit(self._attempt, job, now + _SPARE_SECONDS)
            self._flying.add(attempt)
            attempt.add_done_callback(self._flying.discard)
        return len(jobs)

    def attempt(self, job: Job) -> Delivery:
        """Send it once, and record what came of it."""
        status, message = self._send(job)
        delivered = status is not None and 200 <= status < 300

        def change(before: Delivery) -> Delivery:
            attempts = before.attempts + 1
            last = delivered or attempts > self._options.retries
            return replace(
                before,
                state="delivered" if delivered else "failed" if last else "waiting",
                attempts=attempts,
                status=status,
                message=message,
                next_at=None if last else self._clock() + self._delay(attempts),
                delivered_at=self._clock() if delivered else None,
            )

        delivery = self._store.deliver(job.id, change).delivery
        attempts = counted(delivery.attempts, "attempt")
        log.info("webhook of job %s: %s after %s (%s)", job.id, delivery.state, attempts, message)
        return delivery

    def _attempt(self, job: Job, until: float) -> None:
        """Runs on a thread of the pool. A job that waited there too long has been lent to somebody else."""
        if self._stopping.is_set() or self._clock() > until:
            return
        try:
            self.attempt(job)
        except (JobNotFound, ShuttingDown):
            return
        except EngineError as problem:
            log.warning(
                "webhook of job %s: it is sent again, as what came of it is not kept (%s)", job.id, problem.code
            )
        except Exception as problem:
            log.error("webhook of job %s: %s", job.id, where(problem))

    def _deliver_on(self) -> None:
        pause = _LOOK_SECONDS
        while not self._stopping.is_set():
            self._news.clear()
            pause = _LOOK_SECONDS if self._look() else min(pause * 1.5, _LONGEST_PAUSE)
            self._news.wait(pause)

    def _look(self) -> bool:
        """One step; whether the store let it. Each reason why not is told once."""
        try:
            self.step()
        except Exception as problem:
            if self._stopping.is_set():
                return False
            plain = isinstance(problem, EngineError)
            reason = str(problem) if plain else where(problem)
            if reason != self._failing:
                self._failing = reason
                log.log(logging.WARNING if plain else logging.ERROR, "webhooks wait: %s", reason)
            return False
        if self._failing:
            self._failing = ""
            log.info("webhooks go on")
        return True

    def _delay(self, attempts: int) -> float:
        """Seconds until the next attempt: four times as long each time, and not the same for all."""
        delay = min(_FIRST_DELAY * 4.0 ** (attempts - 1), _LONGEST_DELAY)
        return delay * (0.5 + self._jitter())

    def _send(self, job: Job) -> tuple[int | None, str]:
        """The status of the answer, None without one, and what to say of it."""
        from ocr_mlx.jobs.posting import post

        body = json.dumps(webhook_body(job, self._store.pages(job.id))).encode()
        options = self._options
        return post(
            job.webhook_url,
            body,
            self._headers(job, body),
            timeout=options.timeout,
            private=options.private,
            resolver=self._resolver,
        )

    def _headers(self, job: Job, body: bytes) -> dict[str, str]:
        timestamp = str(int(self._clock()))
        headers = {
            "Content-Type": "application/json",
            TIMESTAMP: timestamp,
            DELIVERY: str(uuid.uuid5(_EVENTS, job.id)),
        }
        if self._options.secret:
            headers[SIGNATURE] = signature(self._options.secret, timestamp, body)
        return headers
