"""Clients that begin a request and do not finish it, or send what is none: their connections end, those of others do not."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from ocr_mlx.domain import OcrRequest, OcrResult
from ocr_mlx.server import guard, protocol
from ocr_mlx.server.errors import CODE_HEADER
from ocr_mlx.server.guard import INSTANCE_HEADER, ISOLATED
from tests.wire.fakes import FakeService, says_hello, serving

PATIENCE = 0.6
LONG = 20.0
"""Seconds that a test waits for what comes at once or after `PATIENCE`."""
JSON = "Content-Type: application/json\n"


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[FakeService, int]]:
    service = FakeService()
    with pytest.MonkeyPatch.context() as patch, serving(service) as url:
        patch.setattr(protocol, "PATIENCE", PATIENCE)
        patch.setattr(guard, "_BODY_SECONDS", PATIENCE)
        yield service, int(url.rpartition(":")[2])


@pytest.fixture
def port(running: tuple[FakeService, int], service: FakeService) -> int:
    return running[1]


@contextmanager
def connected(port: int, text: str = "") -> Iterator[socket.socket]:
    """A connection on which `text` was sent; `$host` stands for a good Host field, every line feed ends a line."""
    with socket.create_connection(("127.0.0.1", port), timeout=LONG) as sock:
        say(sock, text.replace("$host", f"Host: 127.0.0.1:{port}"))
        yield sock


def say(sock: socket.socket, text: str) -> None:
    sock.sendall(text.replace("\n", "\r\n").encode("latin-1"))


def heard(sock: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def answered(sock: socket.socket) -> http.client.HTTPResponse:
    """The next answer, whole."""
    answer = http.client.HTTPResponse(sock, method="GET")
    answer.begin()
    answer.read()
    return answer


HEADS = ("", "G", "GET /livez HTTP/1.1\n", "GET /livez HTTP/1.1\n$host\nX-Long: " + "x" * 9000)


def test_a_head_that_never_ends_is_answered_and_closed(port: int) -> None:
    """And who connects and says nothing is not waited for. All at once, and one on its second request."""
    with ExitStack() as all_of_them:
        socks = [all_of_them.enter_context(connected(port, text)) for text in HEADS]
        second = all_of_them.enter_context(connected(port, "GET /livez HTTP/1.1\n$host\n\n"))
        assert answered(second).status == 200
        say(second, "GET /livez")
        silent, *others = socks
        assert heard(silent) == b""
        for sock in (*others, second):
            answer = http.client.HTTPResponse(sock, method="GET")
            answer.begin()
            told = {name: answer.headers.get(name) for name in (INSTANCE_HEADER, CODE_HEADER, *ISOLATED)}
            assert (answer.status, answer.read()) == (408, b"The head of the request never came whole.")
            assert told == {INSTANCE_HEADER: "test-instance", CODE_HEADER: "request_timeout", **ISOLATED}
            assert sock.recv(1) == b""


def test_a_head_that_drips_has_no_more_time(port: int) -> None:
    started = time.monotonic()
    with connected(port, "GET /livez HTTP/1.1\n") as sock:
        sock.settimeout(PATIENCE / 8)
        got = b""
        while not got and time.monotonic() - started < LONG:
            say(sock, "X-More: x\n")
            try:
                got = sock.recv(65536)
            except TimeoutError:
                continue
    assert got.startswith(b"HTTP/1.1 408 ")


REFUSED = f"POST /nothing HTTP/1.1\n$host\n{JSON}Content-Length: 40\n\n"


def test_bodies_that_stand_still_are_not_waited_for(port: int) -> None:
    """Neither one that a route reads, which is answered, nor one that was answered already."""
    half = f'POST /ocr HTTP/1.1\n$host\n{JSON}Content-Length: 99\n\n{{"filename": '
    with connected(port, half) as read, connected(port, REFUSED) as refused:
        assert answered(refused).status == 404
        say(refused, "xx")
        got = heard(read)
        assert got.startswith(b"HTTP/1.1 408 ") and b"never came" in got and b"connection: close" in got.lower()
        assert heard(refused) == b""


def test_slow_bodies_are_not_cut(port: int) -> None:
    """Not even that of a refused request, so that its client lives to see why; and the connection goes on."""
    body = '{"filename": "data:image/png;base64,eA=="}'
    head = f"POST /ocr HTTP/1.1\n$host\n{JSON}Content-Length: {len(body)}\n\n"
    with connected(port, head) as read, connected(port, REFUSED) as refused:
        assert answered(refused).status == 404
        for start in range(0, 40, 4):
            say(read, body[start : start + 4])
            say(refused, "xxxx")
            time.sleep(PATIENCE / 6)
        say(read, body[40:])
        say(refused, f"GET /livez HTTP/1.1\nHost: 127.0.0.1:{port}\n\n")
        assert [answered(read).status, answered(refused).status] == [200, 200]


def test_what_is_read_for_long_is_not_cut(port: int, service: FakeService) -> None:
    """The clock is for what the client owes, and it owes nothing while it waits."""

    def slow(request: OcrRequest, cancel: threading.Event) -> OcrResult:
        time.sleep(1.5 * PATIENCE)
        return says_hello(request, cancel)

    service.behave = slow
    answer = httpx.post(
        f"http://127.0.0.1:{port}/ocr", json={"filename": "data:image/png;base64,eA=="}, timeout=LONG, trust_env=False
    )
    assert (answer.status_code, answer.text) == (200, "Hello")


UPGRADE = (
    "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
)
CHUNKED = f"$host\n{JSON}Transfer-Encoding: chunked\n\n"


@pytest.mark.parametrize(
    ("text", "later", "status"),
    [
        (f"GET /livez HTTP/1.1\n$host\n{UPGRADE}\n", "nonsense\n\n", 200),
        (f"POST /ocr HTTP/1.1\n{CHUNKED}zz\n", "", 400),
        (f"HEAD /livez HTTP/1.1\n{CHUNKED}zz\n", "", 400),
        (f"POST /nothing HTTP/1.1\n{CHUNKED}", "zz\n", 404),
        (f"POST /ocr HTTP/1.1\n{CHUNKED}1\n{{\n", "zz\n", 400),
        ("GET /livez HTTP/1.1\n$host\n\n", "nonsense\n\n", 200),
    ],
)
def test_what_is_no_request_leaves_neither_advice_nor_a_trace(
    port: int, text: str, later: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with connected(port, text) as sock:
        got = sock.recv(65536) if later and status != 400 else b""
        say(sock, later)
        got += heard(sock)
    assert got.startswith(f"HTTP/1.1 {status} ".encode())
    told = {record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING}
    assert told <= {"Invalid HTTP request received."}
