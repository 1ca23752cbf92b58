"""Receivers that mean harm: bytes on a real socket, as no proper receiver would send them."""

from __future__ import annotations

import time

import pytest

from ocr_mlx.errors import SourceForbidden
from ocr_mlx.jobs.posting import check_address, post
from tests.unit.pages.limited import peak_growth
from tests.unit.pages.test_remote_hostile import CHUNKED, HEAD, Script, chunk, forever, redirect, serving

BODY = b'{"job_id": "1"}'


def send(script: Script | bytes, timeout: float = 10.0) -> tuple[int | None, str]:
    with serving(script) as server:
        url = f"http://127.0.0.1:{server.port}/hook"
        return post(url, BODY, {}, timeout=timeout, private=True)


@pytest.mark.parametrize(
    "script",
    [forever(b"", b"H", 0.02), forever(HEAD, b"A: b\r\n", 0.02), forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02)],
    ids=["status", "headers", "continue"],
)
def test_an_answer_byte_by_byte_is_not_waited_for(script: Script) -> None:
    began = time.monotonic()
    assert send(script, timeout=0.3) == (None, "no answer within 0.3 seconds")
    assert time.monotonic() - began < 3


def test_endless_headers_are_no_answer() -> None:
    with peak_growth(50 * 2**20):
        assert send(forever(HEAD, b"A: " + b"b" * 60000 + b"\r\n")) == (None, "the host could not be reached")


def test_the_status_is_all_that_is_read() -> None:
    """What follows, however much it is, is neither waited for nor kept."""
    began = time.monotonic()
    with peak_growth(20 * 2**20):
        assert send(forever(CHUNKED, chunk(b"x" * 60000))) == (200, "answered with status 200")
    assert time.monotonic() - began < 5


def test_a_redirect_is_not_followed_wherever_it_leads() -> None:
    with serving(HEAD + b"\r\n") as other:
        status, told = send(redirect(f"http://127.0.0.1:{other.port}/"))
        assert status == 302 and "not followed" in told and other.heads == []


def test_what_is_told_of_an_attempt_says_nothing_of_the_address() -> None:
    _, told = post("http://me:secret@host.invalid:1/path?key=1", BODY, {}, timeout=5, private=False)
    assert told == "the host was not found"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://example.com@127.0.0.1/",
        "HTTP://LOCALHOST/",
        "gopher://127.0.0.1:25/",
        "//127.0.0.1/",
        "http:127.0.0.1",
        "http:///x",
        "http://127.0.0.1\r\nX: y/",
    ],
)
def test_spellings_of_inner_addresses_are_refused_when_a_job_is_submitted(url: str) -> None:
    with pytest.raises(SourceForbidden) as caught:
        check_address(url, private=False)
    assert "127" not in str(caught.value)


def test_a_name_that_is_half_inside_is_refused_at_both_times() -> None:
    def both(_host: str, _port: int) -> list[str]:
        return ["93.184.215.14", "127.0.0.1"]

    with pytest.raises(SourceForbidden):
        check_address("https://both.test/", private=False, resolver=both)
    with serving(HEAD + b"\r\n") as server:
        url = f"http://both.test:{server.port}/"
        status, told = post(url, BODY, {}, timeout=5, private=False, resolver=both)
        assert status is None and "private network" in told and server.heads == []
