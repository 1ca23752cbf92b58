"""HTTP on one connection, by h11, which is strict about header fields.

What is no request never reaches a guard, and is answered here. A client that begins a request and does not finish it loses
its connection: a head must be whole within `PATIENCE`; the rest of a body that was answered already may take its time as
long as something comes. While a route reads a body, `guard.BodySizeGuard` looks after that. There are no WebSockets.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ocr_mlx.server.errors import CODE_HEADER, CODES
from ocr_mlx.server.guard import INSTANCE_HEADER, ISOLATED

PATIENCE = 30.0
"""Seconds for the head of a request, counted from the connection or its first byte; and of silence in a body.

Between two requests uvicorn waits for five.
"""
Part = Literal["head", "body"]


class PatientProtocol(H11Protocol):
    """uvicorn's, with an end to waiting."""

    answer_headers: tuple[tuple[str, str], ...] = ()
    """Of the answers that are given here."""
    _awaited: Part | None = None
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See uvicorn."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """See uvicorn."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """See uvicorn."""
        self._stop_clock()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and end the connection."""
        self._end(HTTPStatus.BAD_REQUEST, msg)

    def _should_upgrade(self) -> bool:
        return False

    def _wait(self) -> None:
        """Set the clock for what the client owes. That of a head runs on; that of a body begins anew with every piece."""
        awaited = self._missing()
        if awaited == self._awaited == "head":
            return
        self._stop_clock()
        self._awaited = awaited
        if awaited is not None:
            self._clock = self.loop.call_later(PATIENCE, self._give_up)

    def _missing(self) -> Part | None:
        """The part of a request that has not come whole and that no route waits for."""
        in_work = self.cycle is not None and not self.cycle.response_complete
        if in_work or self.transport.is_closing():
            return None
        if self.conn.their_state is h11.IDLE:
            return "head"
        return "body" if self.conn.their_state is h11.SEND_BODY else None

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock = self._awaited = None

    def _give_up(self) -> None:
        begun = self._awaited == "head" and self.conn.trailing_data[0]
        if begun:
            self._end(HTTPStatus.REQUEST_TIMEOUT, "The head of the request never came whole.")
        else:
            self.transport.close()

    def _end(self, status: HTTPStatus, words: str) -> None:
        """Close the connection, with an answer where none has begun."""
        headers = [*self.answer_headers, (CODE_HEADER, CODES[status])]
        head = h11.Response(status_code=status, headers=headers, reason=status.phrase)
        with suppress(h11.LocalProtocolError):  # an answer has begun, or it is one to HEAD, which has no body
            for event in (head, h11.Data(data=words.encode("ascii")), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            self.cycle.disconnected = True  # its route may be about to answer
        self.transport.close()


def protocol(instance: str) -> type[PatientProtocol]:
    """The protocol of a server of this name."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "Connection": "close", INSTANCE_HEADER: instance} | ISOLATED

    class Protocol(PatientProtocol):
        answer_headers = tuple(headers.items())

    return Protocol
