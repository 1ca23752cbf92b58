"""What streamed answers share: events and lines of JSON, and signs of life while nothing happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

_END: Final = object()


def frame(data: Mapping[str, Any], *, event: str | None = None) -> bytes:
    """One server-sent event."""
    return format_sse_event(data_str=as_json(data), event=event)


def line(data: Mapping[str, Any]) -> bytes:
    """One line of JSON."""
    return as_json(data).encode() + b"\n"


def as_json(data: Mapping[str, Any]) -> str:
    """On one line, and such that it can be encoded."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode()


async def with_pauses(events: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """The events, with a comment after each `seconds` of silence."""
    task: asyncio.Future[bytes | object] | None = None
    try:
        while True:
            task = asyncio.ensure_future(_next_of(events))
            while not (await asyncio.wait({task}, timeout=seconds))[0]:
                yield KEEPALIVE_COMMENT
            event = task.result()
            if not isinstance(event, bytes):
                return
            yield event
    finally:
        if task is not None:
            task.cancel()


async def _next_of(events: AsyncIterator[bytes]) -> bytes | object:
    return await anext(events, _END)
