"""Asks engines elsewhere over HTTP: one thread with an event loop, a few pages at a time, again where that may help.

It uses httpx's transport and not its client: a client writes addresses to the log, keeps cookies of one caller for the
next, and reads proxies and certificates from the environment. Redirects are not followed, so a key goes where it was meant to.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import random
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx

from ocr_mlx.engine.remote import RemoteModel, RemoteOptions
from ocr_mlx.engine.remote_chat import Answer, Events, cut_off, not_understood, parsed, quoted
from ocr_mlx.engine.remote_connect import EngineTransport, unreached
from ocr_mlx.engine.remote_known import Places, Ways
from ocr_mlx.errors import OcrMlxError, RemoteFailed, ShuttingDown, TimedOut
from ocr_mlx.inference.failure import as_error

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_BUSY = frozenset({429, 502, 503, 504})
_BUSY_TRIES = 8
_BROKEN_TRIES = 3
_LONGEST_WAIT = 30.0
_LONGEST_ASKED = 1e6
"""What counts of a Retry-After; whoever asks for more than a page's time has its page fail at once."""
_MOST_ERROR = 1 << 16
_MOST_WHOLE = 1 << 24
_MOST_STREAM = 1 << 26
"""Bytes of an answer: of an error, of one at once, and of a stream with all that engines put around the text."""
_HINTS: Mapping[int, str] = {
    401: "Give its key: OCR_MLX_REMOTE_KEY for the endpoint of the settings, or the request's own.",
    403: "Its key may not use this model; the engine's operator knows.",
    404: "Check the model's name (`ocr_mlx models openai+ADDRESS` lists them), and that the address ends in /v1.",
    413: "Lower OCR_MLX_MAX_PIXELS or ask for a lower dpi.",
    429: "Try again later, or lower OCR_MLX_REMOTE_AT_ONCE.",
    503: "It is busy or still starting: try again later.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One page to ask about: the engine, the caller's key, the request's JSON, and fields that not every engine knows."""

    remote: RemoteModel
    key: str = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)
    extras: Mapping[str, Any] = field(default_factory=dict)


OnDone = Callable[[Answer, OcrMlxError | None, bool], None]
"""Told once, after the connection is closed: what was said, what went wrong, and whether it was cancelled."""


class _Again(Exception):
    """Something that may pass: try again, `tries` times in all for its kind; `wait` seconds later, where the engine says."""

    def __init__(self, error: RemoteFailed, tries: int, wait: float | None = None) -> None:
        super().__init__()
        self.error, self.tries, self.wait = error, tries, wait


class _Refused(Exception):
    """The engine does not take the request in this form."""

    def __init__(self, error: RemoteFailed) -> None:
        super().__init__()
        self.error = error


class RemoteClient:
    """Thread-safe. `ask` returns at once; its callbacks come from the client's own thread and must not block."""

    def __init__(
        self, options: RemoteOptions, *, transport: httpx.AsyncBaseTransport | None = None, first_wait: float = 0.5
    ) -> None:
        """`first_wait` in seconds is the back-off after a first failure; it doubles from there."""
        self._options = options
        self._first_wait = first_wait
        self._transport = transport or EngineTransport(options)
        self._places = Places(most=options.at_once)
        self._ways = Ways()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._closing = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="ocr-remote", daemon=True)
        self._thread.start()

    def ask(self, question: Question, on_text: Callable[[str], None], on_done: OnDone) -> Callable[[], None]:
        """Begin; the function that comes back cancels, from any thread, and harms nothing when all is done."""
        answer, begun = Answer(), asyncio.Future[asyncio.Task[None]](loop=self._loop)

        def begin() -> None:
            task = self._loop.create_task(self._read(question, answer, on_text))
            self._tasks.add(task)
            task.add_done_callback(ended)
            begun.set_result(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            on_done(answer, None if error is None else _known(error, question), task.cancelled())

        if self._closing:
            raise ShuttingDown("The engine is shutting down.", hint="Start it again and repeat the request.")
        self._loop.call_soon_threadsafe(begin, context=contextvars.copy_context())
        return lambda: self._soon(lambda: begun.result().cancel())

    def close(self) -> None:
        """Cancel what is still running, close all connections and end the thread."""
        if self._closing:
            return
        self._closing = True
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._others()
        await self._transport.aclose()
        await self._loop.shutdown_asyncgens()
        await self._others()

    async def _others(self) -> None:
        """Wait for everything else on the loop: httpx leaves generators that close themselves."""
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    def _soon(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it all that could be meant
            self._loop.call_soon_threadsafe(call)

    async def _read(self, question: Question, answer: Answer, on_text: Callable[[str], None]) -> None:
        seconds = self._options.timeout
        async with self._places.one(question.remote.origin):
            try:
                async with asyncio.timeout(seconds):
                    await self._persist(lambda: self._ask(question, answer, on_text), answer)
            except TimeoutError as error:
                raise TimedOut(
                    f"The remote engine did not read the page within {seconds:g} seconds.",
                    hint="OCR_MLX_REMOTE_TIMEOUT sets the limit.",
                ) from error

    async def _persist(self, once: Callable[[], Coroutine[Any, Any, None]], answer: Answer) -> None:
        """Try again, ever later, as long as nothing has been told of the page and its time is not over before."""
        tried, until = Counter[int](), self._loop.time() + self._options.timeout
        while True:
            try:
                return await once()
            except _Again as problem:
                tried[problem.tries] += 1
                wait = self._wait(tried.total(), problem.wait)
                if answer.begun or tried[problem.tries] >= problem.tries:
                    raise problem.error from problem
                if self._loop.time() + wait >= until:
                    raise _too_late(problem) from problem
                log.info("attempt %d follows in %.1f s", tried.total() + 1, wait)
            await asyncio.sleep(wait)

    def _wait(self, tried: int, asked: float | None) -> float:
        doubled = min(self._first_wait * 2.0 ** (tried - 1), _LONGEST_WAIT)
        drawn = doubled * random.uniform(0.5, 1.0)  # noqa: S311 - so that pages do not come back all at once
        return drawn if asked is None else asked + drawn * 0.1

    async def _ask(self, question: Question, answer: Answer, on_text: Callable[[str], None]) -> None:
        """One attempt, in the best form that the engine takes."""
        first: RemoteFailed | None = None
        for fields in self._ways.of(question.remote.base, question.extras):
            try:
                return await self._send(question, fields, answer, on_text)
            except _Refused as refused:
                first = first or refused.error
            except (httpx.TransportError, httpx.StreamError) as error:
                broken = unreached(error)
                log.info("%s", broken.message)
                raise _Again(broken, _BROKEN_TRIES) from error
        assert first is not None  # noqa: S101 - there is always a way
        raise first

    async def _send(
        self, question: Question, fields: Mapping[str, Any], answer: Answer, on_text: Callable[[str], None]
    ) -> None:
        response = await self._transport.handle_async_request(_request(question, fields))
        async with aclosing(response):
            if response.status_code != 200:
                await _refuse(response)
            self._ways.taken(question.remote.base, question.extras, fields)
            if "text/event-stream" in response.headers.get("content-type", "").lower():
                await _follow(response, answer, on_text)
            elif text := answer.take_whole(parsed(await _all(response, _MOST_WHOLE))):
                on_text(text)
        answer.check_whole()


def _request(question: Question, fields: Mapping[str, Any]) -> httpx.Request:
    headers = {
        "Accept": "text/event-stream, application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": "ocr_mlx",
    }
    if question.key:
        headers["Authorization"] = f"Bearer {question.key}"
    return httpx.Request(
        "POST",
        question.remote.completions,
        content=json.dumps({**question.body, **fields}).encode("ascii"),
        headers=headers,
        extensions={"timeout": httpx.Timeout(None, connect=_CONNECT_SECONDS).as_dict()},
    )


async def _follow(response: httpx.Response, answer: Answer, on_text: Callable[[str], None]) -> None:
    """Take a stream's events until it has said all, or repeats itself."""
    events, size = Events(), 0
    async with aclosing(_pieces(response)) as pieces:
        async for piece in pieces:
            size += len(piece)
            if size > _MOST_STREAM:
                raise RemoteFailed("The remote engine's answer does not end.", hint="Ask for fewer tokens.")
            for event in events.feed(piece):
                if text := answer.take(event):
                    on_text(text)
                if answer.looped:
                    return
            if events.done:
                return
    if answer.finish is None:
        raise _Again(cut_off(), _BROKEN_TRIES)


def _pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The bytes as they come: a compressed answer, which nobody asked for, could become one of any size."""
    return cast("AsyncGenerator[bytes, None]", response.aiter_raw())


async def _all(response: httpx.Response, most: int) -> bytes:
    found = bytearray()
    async with aclosing(_pieces(response)) as stream:
        async for piece in stream:
            found += piece
            if len(found) > most:
                raise not_understood()
    return bytes(found)


async def _refuse(response: httpx.Response) -> None:
    """Raise for a status that is not 200."""
    status = response.status_code
    log.info("the remote engine answered with status %d", status)
    error = RemoteFailed(
        f"The remote engine answered with status {status}{await _reason(response)}.",
        hint=_HINTS.get(status, "Its own log says more." if status >= 500 else ""),
    )
    if 300 <= status < 400:
        raise RemoteFailed("The remote engine redirects, which is not followed.", hint="Use its final address.")
    if status in _BUSY:
        raise _Again(error, _BUSY_TRIES, _retry_after(response.headers.get("retry-after", "")))
    if status in (400, 422):
        raise _Refused(error)
    raise error


async def _reason(response: httpx.Response) -> str:
    """The engine's own words, but not where it speaks of keys."""
    if response.status_code in (401, 403):
        return ""
    try:
        return quoted(parsed(await _all(response, _MOST_ERROR)))
    except RemoteFailed:
        return ""


def _retry_after(value: str) -> float | None:
    """Seconds, from a number or a date; None where there is neither."""
    text = value.strip()
    try:
        if text.replace(".", "", 1).isdecimal():
            return min(float(text), _LONGEST_ASKED)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _too_late(problem: _Again) -> RemoteFailed:
    """The error of an engine that wants to be asked again after the page's time is over."""
    if problem.wait is None:
        return problem.error
    return RemoteFailed(
        f"{problem.error.message} It wants to be asked again in {problem.wait:.0f} seconds.",
        hint="Try again then; OCR_MLX_REMOTE_TIMEOUT is how long a page may wait.",
    )


def _known(error: BaseException, question: Question) -> OcrMlxError:
    """The error as it can be shown: without the caller's key and the engine's address."""
    known = as_error(error, "asking a remote engine")
    path = question.remote.completions.partition("://")[2].partition("/")[2]
    for secret in (question.key, path, path.removesuffix("/chat/completions")):
        if len(secret) > 2:
            known.message = known.message.replace(secret, "***")
    return known
