"""An OpenAI-style engine on a real socket, which says what a test wants."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WAIT = 10.0


class Handler(BaseHTTPRequestHandler):
    """One request, and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    engine: FakeEngine

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.engine.requests.append((self.path, dict(self.headers), body))
        answer = self.engine.answers.popleft() if self.engine.answers else self.engine.otherwise
        try:
            answer(self, body)
        except (BrokenPipeError, ConnectionResetError):
            self.engine.gone.set()
        self.close_connection = True

    def do_GET(self) -> None:
        self.engine.looked.append((self.path, dict(self.headers)))
        self.engine.lists(self, {})
        self.close_connection = True

    def whole(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()

    def say(self, event: Mapping[str, Any] | str) -> None:
        text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
        self.wfile.write(f"data: {text}\r\n\r\n".encode())
        self.wfile.flush()

    def until_gone(self) -> None:
        """Wait until the client closes, and note when."""
        self.connection.settimeout(WAIT)
        if self.connection.recv(1) == b"":
            self.engine.gone_at = time.monotonic()
            self.engine.gone.set()

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


Answer = Callable[[Handler, Mapping[str, Any]], None]


def delta(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


def streams(*pieces: str, finish: str | None = "stop", then: Sequence[Mapping[str, Any]] = ()) -> Answer:
    def answer(handler: Handler, _body: Mapping[str, Any]) -> None:
        handler.begin()
        handler.say({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for piece in pieces:
            handler.say(delta(piece))
        if finish:
            handler.say(delta("", finish))
        for event in then:
            handler.say(event)
        handler.say("[DONE]")

    return answer


def completes(text: str, finish: str | None = "stop") -> Answer:
    def answer(handler: Handler, _body: Mapping[str, Any]) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        handler.whole(200, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})

    return answer


def lists(*models: str) -> Answer:
    return lambda handler, _body: handler.whole(200, {"object": "list", "data": [{"id": name} for name in models]})


def says(data: bytes, kind: str = "text/event-stream", status: int = 200) -> Answer:
    """These bytes, whatever they are; the connection ends them."""

    def answer(handler: Handler, _body: Mapping[str, Any]) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def refuses(status: int, message: str = "no", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, _body: handler.whole(status, {"error": {"message": message}}, named)


class FakeEngine:
    """`answers` are used up in order, then `otherwise`."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = deque(answers)
        self.otherwise: Answer = streams("Hello")
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.lists: Answer = lists("org/first", "second")
        """How it answers when it is asked for its models."""
        self.looked: list[tuple[str, dict[str, str]]] = []
        self.gone = threading.Event()
        self.gone_at = 0.0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


class _Server(ThreadingHTTPServer):
    """Quiet about clients that end a handshake."""

    certificate: Path | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.certificate is None:
            return super().finish_request(request, client_address)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        with contextlib.suppress(OSError), context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)


@contextmanager
def engine(*answers: Answer, certificate: Path | None = None) -> Iterator[FakeEngine]:
    """`certificate` is a PEM file with a key: the engine then speaks TLS."""
    fake = FakeEngine(*answers)
    kind = type("BoundHandler", (Handler,), {"engine": fake})
    with _Server(("127.0.0.1", 0), kind) as server:
        server.certificate = certificate
        fake.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join(WAIT)
