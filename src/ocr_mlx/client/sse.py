"""Server-sent events, out of bytes as they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One event as it came: `id` for resuming, empty where the server sent none."""

    event: str = "message"
    data: str = ""
    id: str = ""


class Parser:
    """Takes bytes in pieces of any size; gives a message at each blank line that ends one.

    Lines end at line feeds alone: text in JSON may hold other characters that Unicode counts as line ends.
    """

    def __init__(self) -> None:
        self.retry: float | None = None
        """Seconds that the server wants a client to wait before it connects again."""
        self._rest = b""
        self._event = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The messages that these bytes complete. Comments and unknown fields are passed over."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            message = self._line(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if message is not None:
                yield message

    def _line(self, line: str) -> Message | None:
        if not line:
            return self._complete()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value) / 1000
        return None

    def _complete(self) -> Message | None:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return Message(event=event or "message", data="\n".join(data), id=self._id) if data else None
