"""The client for asyncio. Files are opened off the event loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
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
from ocr_mlx.client.streams import AsyncEventStream, AsyncTextStream

T = TypeVar("T")


class AsyncClient:
    """`Client` with methods to await. A call whose task is cancelled is cancelled on the server too."""

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        *,
        model: str | None = None,
        timeout: float | None = None,
        retries: int = 3,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """See `Client`. With `base_url` None it looks for the server at once, which takes milliseconds."""
        self._http = httpx.AsyncClient(transport=transport, **calls.connection(base_url, token, timeout))
        self._model = model
        self._retries = retries

    @property
    def base_url(self) -> str:
        """Where the server is."""
        return str(self._http.base_url).rstrip("/")

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def read(self, source: Document, **options: Unpack[ReadOptions]) -> Reading:
        """See `Client.read`."""
        return await self.send(await asyncio.to_thread(calls.read, source, {"model": self._model, **options}))

    async def pages(
        self,
        source: Document,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as in the sync client
        on_progress: Callable[[Job], object] | None = None,
        **options: Unpack[PageOptions],
    ) -> list[Page]:
        """See `Client.pages`."""
        given = await self.submit(source, **options)
        waiting = Waiting(given.id, timeout, on_progress, renew=True)
        waiting.absence.answered()
        try:
            ended = await self._wait(waiting)
            listening = Listening(waiting.absence)
            return jobs.pages(ended, [event async for event in self._listen(given.id, listening)])
        finally:
            with suppress(OcrClientError):
                await self.delete(given.id)

    async def ask(self, source: Document, **options: Unpack[ChatOptions]) -> Chat:
        """See `Client.ask`."""
        return await self.send(await asyncio.to_thread(calls.ask, source, await self._named(options)))

    def stream(self, source: Document, **options: Unpack[ChatOptions]) -> AsyncTextStream:
        """See `Client.stream`."""
        deltas = Deltas()
        return AsyncTextStream(deltas, self._texts(source, options, deltas))

    def follow(self, source: Document, **options: Unpack[ReadOptions]) -> AsyncEventStream:
        """See `Client.follow`."""
        follow = Follow()
        return AsyncEventStream(follow, self._follow(source, {"model": self._model, **options}, follow))

    async def extract(
        self, source: Document, schema: Mapping[str, Any], **options: Unpack[ChatOptions]
    ) -> dict[str, Any]:
        """See `Client.extract`."""
        return await self.send(await asyncio.to_thread(calls.extract, source, schema, await self._named(options)))

    async def submit(self, source: Document, **options: Unpack[SubmitOptions]) -> Job:
        """See `Client.submit`."""
        return await self.send(await asyncio.to_thread(calls.submit, source, {"model": self._model, **options}))

    async def job(self, job_id: str) -> Job:
        """See `Client.job`."""
        return await self.send(calls.job(job_id))

    async def jobs(self, *, limit: int | None = None, state: str | None = None) -> list[Job]:
        """See `Client.jobs`."""
        return await self.send(calls.listed(limit, state))

    async def wait(
        self,
        job_id: str,
        timeout: float | None = None,  # noqa: ASYNC109 - as in the sync client
        on_progress: Callable[[Job], object] | None = None,
    ) -> Job:
        """See `Client.wait`."""
        return await self._wait(Waiting(job_id, timeout, on_progress))

    async def cancel(self, job_id: str) -> Job:
        """See `Client.cancel`."""
        return await self.send(calls.cancel(job_id))

    async def delete(self, job_id: str) -> None:
        """See `Client.delete`."""
        await self.send(calls.delete(job_id))

    def events(self, job_id: str) -> AsyncGenerator[Event, None]:
        """See `Client.events`."""
        return self._listen(job_id, Listening())

    async def models(self) -> Models:
        """See `Client.models`."""
        return await self.send(calls.models())

    async def switch_model(self, name: str) -> str:
        """See `Client.switch_model`."""
        return await self.send(calls.switch_model(name))

    async def health(self) -> dict[str, Any]:
        """See `Client.health`."""
        return await self.send(calls.health())

    async def _wait(self, waiting: Waiting) -> Job:
        while True:
            try:
                job = await self.job(waiting.id)
            except (NotReachable, ServerFailed, TimedOut) as error:
                waiting.absence.failed(error)
            else:
                if waiting.is_over(job):
                    return job
            await asyncio.sleep(waiting.pause())

    async def _listen(self, job_id: str, listening: Listening) -> AsyncGenerator[Event, None]:
        while not listening.over:
            try:
                async with self._open(calls.events(job_id, listening.connect())) as pieces:
                    async for piece in pieces:
                        for event in listening.feed(piece):
                            yield event
            except (NotReachable, ServerFailed, TimedOut) as error:
                listening.absence.failed(error)
            if not listening.over:
                await asyncio.sleep(listening.pause)

    async def _named(self, options: ChatOptions) -> ChatOptions:
        """See `Client._named`."""
        model = options.get("model") or self._model or ""
        model = model or await self.send(calls.current_model()) or (await self.health())["model"]
        return {**options, "model": model}

    async def send(self, call: Call[T]) -> T:
        """See `Client.send`."""
        for attempt in itertools.count():
            with translated(self.base_url):
                response = await self._http.send(call.request(self._http))
            pause = retry.delay(response, attempt, self._retries)
            if pause is None:
                break
            await asyncio.sleep(pause)
        return call.answer(response)

    @asynccontextmanager
    async def _open(self, call: Call[Any]) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """The answer in pieces, as they arrive."""
        with translated(self.base_url):
            for attempt in itertools.count():
                response = await self._http.send(call.request(self._http), stream=True)
                pause = retry.delay(response, attempt, self._retries)
                if pause is None:
                    break
                await response.aclose()
                await asyncio.sleep(pause)
            try:
                if response.is_error:
                    await response.aread()
                    raise failure(response)
                yield response.aiter_bytes()
            finally:
                await response.aclose()

    async def _texts(self, source: Document, options: ChatOptions, deltas: Deltas) -> AsyncGenerator[str, None]:
        async with self._open(await asyncio.to_thread(calls.stream, source, await self._named(options))) as pieces:
            async for piece in pieces:
                if text := deltas.feed(piece):
                    yield text
            deltas.end()

    async def _follow(self, source: Document, options: ReadOptions, follow: Follow) -> AsyncGenerator[Event, None]:
        async with self._open(await asyncio.to_thread(calls.follow, source, options)) as pieces:
            async for piece in pieces:
                for event in follow.feed(piece):
                    yield event
            follow.end()
