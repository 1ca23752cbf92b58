"""The queue of units: Dramatiq on Redis. A message names a job and a unit of it, never a document.

Dramatiq gives a message back when its worker's process has not been heard of for a while; heartbeats come from its polling
threads, so that a slow page does not count as a dead worker. What Dramatiq cannot give back (a message that was on the wire
when a connection broke) is sent again by the sweep; so is what is to be tried again, which is why its own retries, which
wait in a worker's memory, are not used. A message too many finds its unit read or claimed, and ends at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from ocr_mlx.jobs.redis.store import PREFIX, connect, reached
from ocr_mlx.jobs.redis.units import Unit

NAME: Final = "units"
NAMESPACE: Final = PREFIX + "queue"
KEY: Final = f"{NAMESPACE}:{NAME}"
HEARTBEAT_SECONDS: Final = 15.0
"""After this silence a worker's messages go to others."""
_MAINTENANCE = 100_000
"""Of a million commands, how many look for silent workers: at some polls a second, one within a second or two."""
_POLL_MILLISECONDS = 250
_ACTOR = "read"


class Queue:
    """Both ends of the queue. Thread-safe."""

    def __init__(
        self, url: str, read: Callable[[str, int], None], *, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        """`read` takes a job's id and a unit's number; what it raises is lost, so it should not."""
        logging.getLogger("dramatiq").setLevel(logging.CRITICAL + 1)  # what matters is said by those who notice it
        self._client = connect(url)
        self._broker = RedisBroker(  # type: ignore[no-untyped-call]
            client=self._client,
            middleware=[],
            namespace=NAMESPACE,
            maintenance_chance=_MAINTENANCE,
            heartbeat_timeout=int(heartbeat_seconds * 1000),
        )
        self._actor = dramatiq.actor(broker=self._broker, queue_name=NAME, actor_name=_ACTOR)(read)
        self._worker: Any = None

    def send(self, unit: Unit) -> str:
        """Put a unit into the queue; the message's id there. Raises JobsUnavailable."""
        with reached():
            message = self._actor.send(unit.job_id, unit.number)
        return str(message.options["redis_message_id"])

    def work(self, threads: int) -> None:
        """Begin to read on so many threads."""
        worker: Any = dramatiq.Worker(self._broker, worker_threads=threads, worker_timeout=_POLL_MILLISECONDS)
        worker.queue_prefetch = threads  # what waits here for a thread another machine could read
        worker.start()
        self._worker = worker

    def pause(self) -> None:
        """Take no more. Dramatiq's own pause would end the polling, and the heartbeats with it."""
        if self._worker is None:
            return
        polling = self._worker.consumers[NAME]
        polling.prefetch = 0
        if polling.consumer is not None:
            polling.consumer.prefetch = 0

    def stop(self, seconds: float) -> None:
        """Wait for what is being read, for `seconds` at most, and give back what nobody began.

        Raises JobsUnavailable when that cannot be told to Redis, which then gives it back when it misses the heartbeats.
        """
        if self._worker is not None:
            with reached():
                self._worker.stop(timeout=int(seconds * 1000))

    def close(self) -> None:
        """Let go."""
        self._client.close()
