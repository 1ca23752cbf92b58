"""The client for ordinary code."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from ocr_mlx.client import calls, jobs, retry
from ocr_mlx.client.calls import Call
from ocr_mlx.client.chat import Deltas
from ocr_mlx.client.documents import Document
from ocr_mlx.client.errors import NotReachable, OcrClientError, ServerFailed, TimedOut, failure, translated
from ocr_mlx.client.following import Listening, Waiting
from ocr_mlx.client.live import Follow
from ocr_mlx.client.options import ChatOptions, PageOptions, ReadOptions, SubmitOptions
from ocr_mlx.client.records import Chat, Event, Job, Models, Page, Reading
from ocr_mlx.client.streams import EventStream, TextStream

T = TypeVar("T")


class Client:
    """Talks to one server; safe to use from several threads. Close it, or use it in a `with` block.

    Every method raises OcrClientError, OSError for a file that cannot be opened, and TypeError or ValueError for
    arguments that make no sense.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        *,
        model: str | None = None,
        timeout: float | None = None,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`base_url` None finds the server that runs on this machine; `model` is for calls that name none.

        `timeout` bounds a silence of the server while it reads, in seconds; None waits. `retries` is how often a call is
        made again when the server says that it is busy (429, 503); 0 turns that off.
        """
        self._http = httpx.Client(transport=transport, **calls.connection(base_url, token, timeout))
        self._model = model
        self._retries = retries

    @property
    def base_url(self) -> str:
        """Where the server is."""
        return str(self._http.base_url).rstrip("/")

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, source: Document, **options: Unpack[ReadOptions]) -> Reading:
        """Read a document: its text, and what became of each page."""
        return self.send(calls.read(source, {"model": self._model, **options}))

    def pages(
        self,
        source: Document,
        *,
        timeout: float | None = None,
        on_progress: Callable[[Job], object] | None = None,
        **options: Unpack[PageOptions],
    ) -> list[Page]:
        """Read a document page by page, as a job: the text and status of each, with a reason where one failed.

        `timeout` is for each page, in seconds; `on_progress` as in `wait`. Nothing of the job stays on the server, however
        this ends.
        """
        given = self.submit(source, **options)
        waiting = Waiting(given.id, timeout, on_progress, renew=True)
        waiting.absence.answered()
        try:
            ended = self._wait(waiting)
            return jobs.pages(ended, self._listen(given.id, Listening(waiting.absence)))
        finally:
            with suppress(OcrClientError):
                self.delete(given.id)

    def ask(self, source: Document, **options: Unpack[ChatOptions]) -> Chat:
        """Read a document through the chat surface: with token counts, confidence and pages."""
        return self.send(calls.ask(source, self._named(options)))

    def stream(self, source: Document, **options: Unpack[ChatOptions]) -> TextStream:
        """Read a document and take the text as it comes. Closing the stream cancels the reading."""
        deltas = Deltas()
        return TextStream(deltas, self._texts(calls.stream(source, self._named(options)), deltas))

    def follow(self, source: Document, **options: Unpack[ReadOptions]) -> EventStream:
        """Read a document and take its events as they happen, page by page. Closing the stream cancels the reading."""
        follow = Follow()
        return EventStream(follow, self._follow(calls.follow(source, {"model": self._model, **options}), follow))

    def extract(self, source: Document, schema: Mapping[str, Any], **options: Unpack[ChatOptions]) -> dict[str, Any]:
        """What a page says, as an object of a JSON schema: the first page, unless `pages` names another.

        Raises Refused for a model that cannot be held to a schema, and BadAnswer when `max_tokens` cut the object off.
        """
        return self.send(calls.extract(source, schema, self._named(options)))

    def submit(self, source: Document, **options: Unpack[SubmitOptions]) -> Job:
        """Have a document read later. Once this returns the server keeps the job, whatever happens to it."""
        return self.send(calls.submit(source, {"model": self._model, **options}))

    def job(self, job_id: str) -> Job:
        """How a job stands. Raises Refused with status 404 for one that is unknown or expired."""
        return self.send(calls.job(job_id))

    def jobs(self, *, limit: int | None = None, state: str | None = None) -> list[Job]:
        """The newest jobs first."""
        return self.send(calls.listed(limit, state))

    def wait(
        self, job_id: str, timeout: float | None = None, on_progress: Callable[[Job], object] | None = None
    ) -> Job:
        """Wait for a job's end, whatever it is; `on_progress` gets the job each time it has moved.

        A server that is started again meanwhile is waited for. Raises TimedOut after `timeout` seconds; the job goes on.
        """
        return self._wait(Waiting(job_id, timeout, on_progress))

    def cancel(self, job_id: str) -> Job:
        """End a job; what was read stays. One that has ended is returned as it is."""
        return self.send(calls.cancel(job_id))

    def delete(self, job_id: str) -> None:
        """Cancel a job where needed, and have the server forget it."""
        self.send(calls.delete(job_id))

    def events(self, job_id: str) -> Generator[Event, None, None]:
        """What happens to a job until it ends. A connection that drops is made again, and nothing is told twice."""
        return self._listen(job_id, Listening())

    def models(self) -> Models:
        """What the server can read with."""
        return self.send(calls.models())

    def switch_model(self, name: str) -> str:
        """Choose the model for calls that name none; its name."""
        return self.send(calls.switch_model(name))

    def health(self) -> dict[str, Any]:
        """The server's state. Wakes no model."""
        return self.send(calls.health())

    def _wait(self, waiting: Waiting) -> Job:
        while True:
            try:
                job = self.job(waiting.id)
            except (NotReachable, ServerFailed, TimedOut) as error:
                waiting.absence.failed(error)
            else:
                if waiting.is_over(job):
                    return job
            time.sleep(waiting.pause())

    def _listen(self, job_id: str, listening: Listening) -> Generator[Event, None, None]:
        while not listening.over:
            try:
                with self._open(calls.events(job_id, listening.connect())) as pieces:
                    for piece in pieces:
                        yield from listening.feed(piece)
            except (NotReachable, ServerFailed, TimedOut) as error:
                listening.absence.failed(error)
            if not listening.over:
                time.sleep(listening.pause)

    def _named(self, options: ChatOptions) -> ChatOptions:
        """The options with a model: the chat surface wants one in every request."""
        model = options.get("model") or self._model or self.send(calls.current_model()) or self.health()["model"]
        return {**options, "model": model}

    def send(self, call: Call[T]) -> T:
        """Make a call; again while the server is busy."""
        for attempt in itertools.count():
            with translated(self.base_url):
                response = self._http.send(call.request(self._http))
            pause = retry.delay(response, attempt, self._retries)
            if pause is None:
                break
            time.sleep(pause)
        return call.answer(response)

    @contextmanager
    def _open(self, call: Call[Any]) -> Generator[Iterator[bytes], None, None]:
        """The answer in pieces, as they arrive."""
        with translated(self.base_url):
            for attempt in itertools.count():
                response = self._http.send(call.request(self._http), stream=True)
                pause = retry.delay(response, attempt, self._retries)
                if pause is None:
                    break
                response.close()
                time.sleep(pause)
            try:
                if response.is_error:
                    response.read()
                    raise failure(response)
                yield response.iter_bytes()
            finally:
                response.close()

    def _texts(self, call: Call[Any], deltas: Deltas) -> Generator[str, None, None]:
        with self._open(call) as pieces:
            for piece in pieces:
                if text := deltas.feed(piece):
                    yield text
            deltas.end()

    def _follow(self, call: Call[Any], follow: Follow) -> Generator[Event, None, None]:
        with self._open(call) as pieces:
            for piece in pieces:
                yield from follow.feed(piece)
            follow.end()
