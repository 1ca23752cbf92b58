"""Answers that come in pieces, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

from fastapi.sse import EventSourceResponse
from starlette.background import BackgroundTask
from starlette.types import Receive

from ocr_mlx.domain import DocumentDone, DocumentStarted, Event, OcrResult
from ocr_mlx.server.deps import ServerContext
from ocr_mlx.server.openai import answers
from ocr_mlx.server.openai.answers import Answer
from ocr_mlx.server.openai.convert import Ask
from ocr_mlx.server.openai.live import LiveText
from ocr_mlx.server.openai.problems import Refused, in_openai_words, log
from ocr_mlx.server.running import Reading
from ocr_mlx.server.streams import frame, with_pauses

PATIENCE: Final = 10.0
"""Seconds after which a stream begins although the model is not there yet: from then on errors are events."""
PAUSE: Final = 15.0
"""Seconds of silence after which a comment says that the server still works."""
DONE: Final = b"data: [DONE]\n\n"


class Streaming:
    """A request's documents on their way, one after the other. `answer` is there once the pieces have ended."""

    def __init__(self, ask: Ask, context: ServerContext) -> None:
        self.ask = ask
        self.answer: Answer | None = None
        self.model = ask.model
        self._context = context
        self._reading: Reading | None = None
        self._live: LiveText | None = None

    async def open(self, receive: Receive) -> None:
        """Wait until the first document is open and its model loaded, or for PATIENCE. Raises Refused."""
        with in_openai_words(self.ask.where(0)):
            self._reading = self._read(0)
            if started := await self._reading.opened(receive, PATIENCE):
                self.model = answers.shown_model(started.model, self.ask.model)

    async def pieces(self) -> AsyncIterator[str]:
        """The text in pieces. Raises Refused when reading fails on the way."""
        results: list[OcrResult] = []
        differing: dict[tuple[int, int], str] = {}
        try:
            for number in range(len(self.ask.documents)):
                with in_openai_words(self.ask.where(number)):
                    async for event in self._events(number):
                        if isinstance(event, DocumentDone):
                            results.append(answers.check(event.result, self.ask, number))
                        if piece := self._said(event):
                            yield piece
                wrong = self._live.differing if self._live else {}
                differing |= {(number, page): text for page, text in wrong.items()}
            self.answer = Answer(ask=self.ask, results=results, differing=differing)
        finally:
            self.close()

    def close(self) -> None:
        """Cancel what still runs."""
        if self._reading is not None:
            self._reading.close()

    def _read(self, number: int) -> Reading:
        return self._context.runner.read(partial(self.ask.request, number, self._context.models))

    def _events(self, number: int) -> AsyncIterator[Event]:
        """Those of a document; the first is being read already."""
        if self._reading is None or number:
            self._reading = self._read(number)
        return self._reading.events()

    def _said(self, event: Event) -> str:
        """What an event lets out."""
        if isinstance(event, DocumentStarted):
            self.model = answers.shown_model(event.model, self.ask.model)
            self._live = LiveText(self.ask, event.pages, before=bool(self._live and self._live.spoke))
        return self._live.take(event) if self._live else ""


def event_stream(streaming: Streaming, events: AsyncIterator[bytes]) -> EventSourceResponse:
    """The response. A client that leaves, even before the first byte, ends the work."""
    return EventSourceResponse(
        with_pauses(events, PAUSE),
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        background=BackgroundTask(streaming.close),
    )


async def chat_events(streaming: Streaming, *, with_usage: bool) -> AsyncIterator[bytes]:
    """Chat's chunks: the role, the text in pieces, the end with what became of the pages, the usage where wanted."""
    head = {"id": answers.new_id("chatcmpl"), "object": "chat.completion.chunk", "created": answers.now()}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        told = head | {"model": streaming.model, "choices": [choice]}
        return frame(told | ({"usage": None} if with_usage else {}) | more)

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for piece in streaming.pieces():
            yield chunk({"content": piece})
    except Refused as refused:
        log.warning("failed: %s", refused.code)
        yield frame(refused.body())
        yield DONE
        return
    answer = streaming.answer
    assert answer is not None  # noqa: S101 - the pieces have ended
    yield chunk({}, answer.finish, ocr=answers.plain(answer.report()))
    if with_usage:
        yield frame(head | {"model": streaming.model, "choices": [], "usage": answer.usage().model_dump()})
    yield DONE
