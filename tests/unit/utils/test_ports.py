from __future__ import annotations

import errno
import socket

import pytest

from ocr_mlx.utils import ports


def test_any_port_is_free_and_listens() -> None:
    with ports.listen("127.0.0.1", 0) as sock:
        with socket.create_connection(sock.getsockname(), timeout=5) as client:
            assert client.getpeername() == sock.getsockname()


def test_a_port_that_listens_is_passed_over() -> None:
    with ports.listen("127.0.0.1", 0) as first:
        taken = first.getsockname()[1]
        with ports.listen("127.0.0.1", taken) as second:
            assert taken < second.getsockname()[1] <= taken + ports.TRIES


def test_when_all_are_taken_it_says_which() -> None:
    with ports.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"No free port from {port} to {port}") as caught:
            ports.listen("127.0.0.1", port, tries=1)
    assert caught.value.errno == errno.EADDRINUSE


def test_a_foreign_address_is_an_error_at_once() -> None:
    with pytest.raises(OSError) as caught:
        ports.listen("192.0.2.1", 7771)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_the_last_port_has_no_next() -> None:
    with pytest.raises(OSError, match="65535"), ports.listen("127.0.0.1", 65535):
        ports.listen("127.0.0.1", 65535).close()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("::1", "http://[::1]:1"),
        ("localhost", "http://localhost:1"),
    ],
)
def test_url(host: str, url: str) -> None:
    assert ports.url(host, 1) == url
