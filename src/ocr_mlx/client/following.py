"""What waiting for a job and listening to it remember between two requests; how the requests are made is not known here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

from ocr_mlx.client import jobs
from ocr_mlx.client.errors import BadAnswer, OcrClientError, TimedOut
from ocr_mlx.client.records import Event, Job
from ocr_mlx.client.retry import pauses
from ocr_mlx.client.sse import Message, Parser

PATIENCE = 60.0
"""Seconds that a server may be away, as when it is started again, before waiting for its job ends."""
_PAUSE = 0.5
_END = "done"


class Absence:
    """How long the server has been away. One that never answered gets no second chance."""

    def __init__(self) -> None:
        self._heard = False
        self._since: float | None = None

    def answered(self) -> None:
        """The server is there."""
        self._heard, self._since = True, None

    def failed(self, error: OcrClientError) -> None:
        """A request failed. Raises the error when that is for good."""
        now = time.monotonic()
        self._since = self._since or now
        if not self._heard or now - self._since > PATIENCE:
            raise error


class Waiting:
    """One wait for a job's end. `renew`: the timeout is for each page, and begins again with every progress."""

    def __init__(
        self, job_id: str, timeout: float | None, on_progress: Callable[[Job], object] | None, *, renew: bool = False
    ) -> None:
        self.absence = Absence()
        self.id = job_id
        self._timeout = timeout
        self._since = time.monotonic()
        self._tell = on_progress
        self._renew = renew
        self._last: tuple[str, int] | None = None
        self._pauses = pauses()

    def is_over(self, job: Job) -> bool:
        """Whether the job has ended; tells of progress."""
        self.absence.answered()
        state = (job.state, job.done)
        if state != self._last:
            self._last = state
            self._since = time.monotonic() if self._renew else self._since
            if self._tell is not None:
                self._tell(job)
        return job.is_final

    def pause(self) -> float:
        """Seconds until the next look. Raises TimedOut when there is no time left."""
        pause = next(self._pauses)
        if self._timeout is None:
            return pause
        left = self._since + self._timeout - time.monotonic()
        if left <= 0:
            raise TimedOut(self._too_late())
        return min(pause, left)

    def _too_late(self) -> str:
        if self._renew:
            return f"No page was done in {self._timeout:g} seconds, so reading was given up. Give a longer timeout."
        return f"Job {self.id} has not ended in time. It goes on; wait again, or cancel it."


class Listening:
    """One subscription to a job's events, over as many connections as it takes. `absence` is of a wait before it."""

    def __init__(self, absence: Absence | None = None) -> None:
        self.last_id = ""
        self.over = False
        self.absence = absence or Absence()
        self.pause = _PAUSE
        self._parser = Parser()

    def connect(self) -> dict[str, str]:
        """The headers of the next request."""
        self._parser = Parser()
        return {"Last-Event-ID": self.last_id} if self.last_id else {}

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that these bytes complete, none after the job's end."""
        self.absence.answered()
        for message in self._parser.feed(piece):
            self.last_id = message.id or self.last_id
            self.over = message.event == _END
            yield _event(message)
            if self.over:
                return
        if self._parser.retry is not None:
            self.pause = self._parser.retry


def _event(message: Message) -> Event:
    try:
        data = json.loads(message.data)
        page = jobs.page(data) if message.event == "page" else None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadAnswer("The server's events are not those of a job.") from error
    return Event(kind=message.event, data=data, id=message.id, page=page)
