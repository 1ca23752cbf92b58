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
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx

from ocr_mlx.engine.remote import RemoteModel, RemoteOptions
from ocr_mlx.engine.remote_chat import FORMS, Answer, Events, not_understood, parsed, quoted
from ocr_mlx.engine.remote_connect import EngineTransport
from ocr_mlx.errors import OcrMlxError, RemoteFailed, ShuttingDown, TimedOut
from ocr_mlx.inference.failure import as_error

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_BUSY = frozenset({429, 502, 503, 504})
_BUSY_TRIES = 8
_BROKEN_TRIES = 3
_LONGEST_WAIT = 30.0
_LONGEST_ASKED = 60.0
"""The longest wait that an engine may ask for with Retry-After."""
_MOST_ERROR = 1 << 16
_MOST_WHOLE = 1 << 24
_MOST_STREAM = 1 << 26
"""Bytes of an answer: of an error, of one at once, and of a stream with all that engines put around the text."""
_HINTS: Mapping[int, str] = {
    401: "Give its key: OCR_MLX_REMOTE_KEY for the endpoint of the settings, or the request's own.",
    403: "Its key may not use this model; the engine's operator knows.",
    404: "Check the model's name and that the address ends in /v1 as the engine says.",
    413: "Lower OCR_MLX_MAX_PIXELS or ask for a lower dpi.",
    429: "Try again later, or lower OCR_MLX_REMOTE_AT_ONCE.",
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
    """Something that may pass: try again, `tries` times in all, after `wait` seconds where the engine names them."""

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
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._forms: dict[str, int] = {}
        """The form that each engine is known to take."""
        self._strict: set[str] = set()
        """Engines that take no extras."""
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
        origin, seconds = question.remote.origin, self._options.timeout
        async with self._slots.setdefault(origin, asyncio.Semaphore(self._options.at_once)):
            try:
                async with asyncio.timeout(seconds):
                    await self._persist(lambda: self._ask(question, answer, on_text), answer)
            except TimeoutError as error:
                raise TimedOut(
                    f"The remote engine did not read the page within {seconds:g} seconds.",
                    hint="OCR_MLX_REMOTE_TIMEOUT sets the limit.",
                ) from error

    async def _persist(self, once: Callable[[], Coroutine[Any, Any, None]], answer: Answer) -> None:
        """Try again, ever later, as long as nothing has been told of the page."""
        tried = 0
        while True:
            try:
                return await once()
            except _Again as problem:
                tried += 1
                if answer.begun or tried >= problem.tries:
                    raise problem.error from problem
                wait = self._wait(tried, problem.wait)
                log.info("the remote engine failed; attempt %d follows in %.1f s", tried + 1, wait)
            await asyncio.sleep(wait)

    def _wait(self, tried: int, asked: float | None) -> float:
        doubled = min(self._first_wait * 2.0 ** (tried - 1), _LONGEST_WAIT)
        drawn = doubled * random.uniform(0.5, 1.0)  # noqa: S311 - so that pages do not come back all at once
        return drawn if asked is None else min(asked, _LONGEST_ASKED) + drawn * 0.1

    async def _ask(self, question: Question, answer: Answer, on_text: Callable[[str], None]) -> None:
        """One attempt, in the best form that the engine takes."""
        first: RemoteFailed | None = None
        for fields in self._ways(question):
            try:
                return await self._send(question, fields, answer, on_text)
            except _Refused as refused:
                first = first or refused.error
            except (httpx.TransportError, httpx.StreamError) as error:
                raise _Again(_broken(error), _BROKEN_TRIES) from error
        assert first is not None  # noqa: S101 - there is always a way
        raise first

    def _ways(self, question: Question) -> Iterator[Mapping[str, Any]]:
        """The fields to send beside the body, best first; once one was taken, only what that engine is known to take."""
        base = question.remote.base
        known = self._forms.get(base)
        forms = FORMS if known is None else (FORMS[known],)
        if question.extras and base not in self._strict:
            yield {**forms[0], **question.extras}
        yield from forms

    async def _send(
        self, question: Question, fields: Mapping[str, Any], answer: Answer, on_text: Callable[[str], None]
    ) -> None:
        response = await self._transport.handle_async_request(_request(question, fields))
        async with aclosing(response):
            if response.status_code != 200:
                await _refuse(response)
            self._remember(question, fields)
            if "text/event-stream" in response.headers.get("content-type", ""):
                await _follow(response, answer, on_text)
            elif text := answer.take(parsed(await _all(response, _MOST_WHOLE))):
                on_text(text)
        answer.check_whole()

    def _remember(self, question: Question, fields: Mapping[str, Any]) -> None:
        base = question.remote.base
        self._forms[base] = next(i for i, form in enumerate(FORMS) if form.items() <= fields.items())
        if question.extras and not question.extras.items() <= fields.items():
            self._strict.add(base)


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
    error = RemoteFailed(
        f"The remote engine answered with status {status}{await _reason(response)}.", hint=_HINTS.get(status, "")
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
            return float(text)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _broken(error: Exception) -> RemoteFailed:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return RemoteFailed(
            "The remote engine could not be reached.",
            hint="Check that it is running, and its address (OCR_MLX_REMOTE_ENDPOINT, or the one in the request).",
        )
    return RemoteFailed("The connection to the remote engine broke.", hint="Try again; the engine may have restarted.")


def _known(error: BaseException, question: Question) -> OcrMlxError:
    """The error as it can be shown: without the caller's key and the engine's address."""
    known = as_error(error, "asking a remote engine")
    path = question.remote.completions.partition("://")[2].partition("/")[2]
    for secret in (question.key, path, path.removesuffix("/chat/completions")):
        if len(secret) > 2:
            known.message = known.message.replace(secret, "***")
    return known
