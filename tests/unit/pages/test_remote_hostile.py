"""Servers that mean harm, or mean nothing: bytes on a real socket, as no proper server would send them."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from ocr_mlx.errors import FetchFailed, OcrMlxError, SourceForbidden, SourceTooLarge
from ocr_mlx.pages import addresses
from ocr_mlx.pages.fetch import FetchLimits
from ocr_mlx.pages.remote import fetch_url
from tests.unit.pages.limited import peak_growth

Script = Callable[[socket.socket, threading.Event], None]
OPEN = FetchLimits(allow_private=True, timeout=20)
WAIT = 10.0


class Server:
    """Answers each connection by its script; keeps the heads of requests."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.heads: list[bytes] = []
        self.over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.02)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self.over.is_set():
            with suppress(OSError):
                connection, _ = self._socket.accept()
                with connection:
                    connection.settimeout(WAIT)
                    head = b""
                    while b"\r\n\r\n" not in head and (piece := connection.recv(65536)):
                        head += piece
                    self.heads.append(head)
                    self.script(connection, self.over)

    def close(self) -> None:
        self.over.set()
        self._thread.join()
        self._socket.close()


@contextmanager
def serving(script: Script | bytes) -> Iterator[Server]:
    def once(connection: socket.socket, _over: threading.Event) -> None:
        connection.sendall(script if isinstance(script, bytes) else b"")

    server = Server(once if isinstance(script, bytes) else script)
    try:
        yield server
    finally:
        server.close()


def fetch(script: Script | bytes, **limits: float) -> bytes:
    with serving(script) as server:
        return fetch_url(
            f"http://127.0.0.1:{server.port}/a",
            FetchLimits(allow_private=True, **{"timeout": 20, **limits}),  # type: ignore[arg-type]
        )


def forever(start: bytes, again: bytes, pause: float = 0.0) -> Script:
    def script(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(start)
        while not over.wait(pause):
            connection.sendall(again)

    return script


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        forever(b"", b"H", 0.02),
        forever(HEAD, b"A: b\r\n", 0.02),
        forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
        forever(HEAD + b"Content-Length: 100000\r\n\r\n", b"x", 0.02),
        forever(CHUNKED, chunk(b"x"), 0.02),
        forever(CHUNKED + b"5;", b"e", 0.02),
        forever(CHUNKED + b"0\r\n", b"A: b\r\n", 0.02),
    ],
    ids=["status", "headers", "continue", "body", "chunks", "chunk extension", "trailers"],
)
def test_byte_by_byte_is_not_forever(script: Script) -> None:
    began = time.monotonic()
    with pytest.raises(FetchFailed, match=r"0\.3 seconds"):
        fetch(script, timeout=0.3)
    assert time.monotonic() - began < 3


def test_a_chain_of_slow_redirects_has_one_time_for_all() -> None:
    def script(connection: socket.socket, over: threading.Event) -> None:
        over.wait(0.15)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n")

    with pytest.raises(FetchFailed, match=r"0\.4 seconds"):
        fetch(script, timeout=0.4)


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        forever(HEAD, b"A: " + b"b" * 60000 + b"\r\n"),
        forever(b"HTTP/1.1 200 " + b"O" * 60000, b"O" * 60000),
        forever(CHUNKED + b"5;", b"e" * 60000),
    ],
    ids=["headers", "reason", "chunk extension"],
)
def test_what_is_not_the_body_ends_early_too(script: Script) -> None:
    with peak_growth(50 * 2**20), pytest.raises(FetchFailed, match="could not be reached"):
        fetch(script)


@pytest.mark.parametrize("size", [1, 60000])
def test_endless_chunks_end_at_the_limit(size: int) -> None:
    with pytest.raises(SourceTooLarge):
        fetch(forever(CHUNKED, chunk(b"x" * size) * (64 if size == 1 else 1)), max_bytes=20_000)


def test_a_bomb_is_unpacked_to_the_limit_and_no_further() -> None:
    bomb = gzip.compress(b"\0" * 60_000_000, 9)
    answer = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(bomb), bomb)
    with peak_growth(40 * 2**20), pytest.raises(SourceTooLarge):
        fetch(answer, max_bytes=10_000_000)


def test_compressed_twice_is_unpacked_at_most_once() -> None:
    twice = gzip.compress(gzip.compress(b"x" * 1000))
    head = HEAD + b"Content-Length: %d\r\n" % len(twice)
    assert fetch(head + b"Content-Encoding: gzip, gzip\r\n\r\n" + twice) == twice
    assert fetch(head + b"Content-Encoding: gzip\r\n\r\n" + twice) == gzip.decompress(twice)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_body_that_breaks_off_is_no_document(encoding: str) -> None:
    whole = gzip.compress(b"x" * 1000) if encoding == "gzip" else zlib.compress(b"x" * 1000)
    head = HEAD + f"Content-Encoding: {encoding}\r\n".encode()
    assert fetch(head + b"\r\n" + whole) == b"x" * 1000
    assert fetch(head + b"Content-Length: 0\r\n\r\n") == b""
    for damaged in (whole[:-3], whole[:12], b"\0" + whole):
        with pytest.raises(FetchFailed, match="damaged"):
            fetch(head + b"\r\n" + damaged)


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 5000, "5, 6", "٣", ""])
def test_a_length_that_is_none(length: str) -> None:
    with pytest.raises((FetchFailed, SourceTooLarge)):
        fetch(HEAD + f"Content-Length: {length}\r\n\r\nbody".encode())


def test_a_length_that_is_wrong() -> None:
    with pytest.raises(FetchFailed, match="could not be reached"):
        fetch(HEAD + b"Content-Length: 100\r\n\r\nbody")
    assert fetch(HEAD + b"Content-Length: 2\r\n\r\nbody") == b"bo"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0" * 1000,
        b"SSH-2.0-OpenSSH_9.0\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 99999 x\r\n\r\n",
        HEAD + b"A\r\n b\0\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"-5\r\nx",
        CHUNKED + b"f" * 100 + b"\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1/\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://host\xff\xfe/\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: //\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_a_typed_error(answer: bytes) -> None:
    with pytest.raises((FetchFailed, SourceForbidden)) as caught:
        fetch(answer)
    assert str(caught.value).isprintable() and caught.value.hint


# --- where to --------------------------------------------------------------------------------------------------------


def redirect(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[::7f00:1]",
        "[0:0:0:0:0:0:0:1]",
        "169.254.169.254",
        "[fe80::1]",
        "[fe80::1%25lo]",
        "[fe80::1%lo]",
        "%31%32%37.0.0.1",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "user@127.0.0.1",
        "example.com@127.0.0.1",
    ],
)
def test_no_spelling_of_an_inner_address_is_connected_to_directly_or_by_a_redirect(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(HEAD + b"\r\ninside") as inside, pytest.raises((SourceForbidden, FetchFailed)):
        fetch_url(f"http://{host}:{inside.port}/", FetchLimits(timeout=5))
    assert inside.heads == []
    # For the redirect the outer server, which is on this machine as well, counts as public under its own name.
    usual = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.9" or usual(address))

    def resolver(name: str, port: int) -> list[str]:
        return ["127.0.0.9"] if name == "outside.test" else addresses.resolve(name, port)

    with serving(HEAD + b"\r\ninside") as inside, on_address("127.0.0.9", redirect("")) as outside:
        outside.script = lambda connection, _over: connection.sendall(redirect(f"http://{host}:{inside.port}/"))
        with pytest.raises((SourceForbidden, FetchFailed)):
            fetch_url(f"http://outside.test:{outside.port}/", FetchLimits(timeout=5), resolver=resolver)
        assert len(outside.heads) == 1 and inside.heads == []


@contextmanager
def on_address(address: str, script: bytes) -> Iterator[Server]:
    """A server at another address of this machine; skips where the system has one only."""
    try:
        probe = socket.create_server((address, 0))
    except OSError:
        pytest.skip(f"this system does not listen on {address}")
    with serving(script) as server:
        server._socket.close()
        server._socket = probe
        probe.settimeout(0.02)
        server.port = probe.getsockname()[1]
        yield server


def test_a_name_with_one_public_and_one_inner_address_is_connected_to_at_neither() -> None:
    with serving(HEAD + b"\r\ninside") as inside:
        for found in (["93.184.215.14", "127.0.0.1"], ["127.0.0.1", "93.184.215.14"]):
            with pytest.raises(SourceForbidden, match=r"both\.test"):
                fetch_url(
                    f"http://both.test:{inside.port}/", FetchLimits(), resolver=lambda _host, _port, all=found: all
                )
    assert inside.heads == []


def test_every_hop_is_resolved_anew_and_its_own_addresses_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was public for the first request and is not for the second: the second is refused."""
    with serving(b"") as server:
        server.script = lambda connection, _over: connection.sendall(redirect("/again"))
        answers = [["127.0.0.1"], ["127.0.0.1"], ["10.0.0.1"]]
        asked: list[str] = []

        def resolver(host: str, _port: int) -> list[str]:
            asked.append(host)
            return answers.pop(0)

        monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
        with pytest.raises(SourceForbidden, match=r"moving\.test"):
            fetch_url(f"http://moving.test:{server.port}/", FetchLimits(timeout=5), resolver=resolver)
    assert asked == ["moving.test"] * 3 and len(server.heads) == 2


def test_user_and_password_stay_with_the_host_they_were_given_for() -> None:
    with serving(HEAD + b"Content-Length: 2\r\n\r\nok") as other, serving(b"") as first:
        first.script = lambda connection, _over: connection.sendall(redirect(f"http://127.0.0.1:{other.port}/x"))
        assert fetch_url(f"http://me:secret@127.0.0.1:{first.port}/", OPEN) == b"ok"
    assert b"authorization: basic" in first.heads[0].lower() and b"authorization" not in other.heads[0].lower()
    assert b"referer" not in other.heads[0].lower() and b"cookie" not in other.heads[0].lower()


@pytest.mark.parametrize("path", ["/a%0d%0aX-Injected:%20y", "/%00", "/a?b=%0ac", "/é"])
def test_nothing_in_an_address_becomes_a_header_or_a_second_line(path: str) -> None:
    with serving(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as server:
        with pytest.raises(OcrMlxError) as caught:
            fetch_url(f"http://127.0.0.1:{server.port}{path}", OPEN)
    (head,) = server.heads
    assert b"x-injected" not in head.lower().partition(b"\r\n")[2] and head.count(b"\r\n\r\n") == 1
    assert str(caught.value).isprintable()


def test_a_very_long_host_is_cut_in_the_message() -> None:
    with pytest.raises((FetchFailed, SourceForbidden)) as caught:
        fetch_url(f"http://{'a' * 50}.{'b' * 5000}/", OPEN)
    assert len(str(caught.value)) < 300
