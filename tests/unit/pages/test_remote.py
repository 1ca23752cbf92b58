"""Against a real server on this machine: what is checked is what happens on the wire."""

from __future__ import annotations

import gzip
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ocr_mlx.domain import RemoteUrl
from ocr_mlx.errors import FetchFailed, SourceForbidden, SourceTooLarge
from ocr_mlx.pages import addresses
from ocr_mlx.pages.fetch import FetchLimits, fetch
from ocr_mlx.pages.remote import fetch_url

OPEN = FetchLimits(allow_private=True, timeout=20)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        name = self.path.split("?")[0].strip("/").split("/")[0]
        getattr(self, f"answer_{name}")()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_page(self) -> None:
        self.reply(body=b"a page", Content_Length="6")

    def answer_status(self) -> None:
        self.reply(int(self.path.rsplit("/", 1)[1]))

    def answer_redirect(self) -> None:
        self.reply(302, Location=self.path.split("?", 1)[1])

    def answer_loop(self) -> None:
        self.reply(302, Location="/loop")

    def answer_chain(self) -> None:
        left = int(self.path.rsplit("/", 1)[1])
        self.reply(307, Location=f"/chain/{left - 1}" if left > 1 else "/page")

    def answer_declared(self) -> None:
        self.reply(Content_Length="1000")

    def answer_endless(self) -> None:
        self.reply()
        while not self.server.over.is_set():
            self.wfile.write(b"x" * 65536)

    def answer_drip(self) -> None:
        while not self.server.over.wait(0.02):
            self.wfile.write(b"H")
            self.wfile.flush()

    def answer_silence(self) -> None:
        self.server.over.wait()

    def answer_gzip(self) -> None:
        self.reply(body=gzip.compress(b"z" * 100_000), Content_Encoding="gzip")

    def answer_cut(self) -> None:
        self.reply(body=b"short", Content_Length="1000")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def url(server: Server) -> Callable[[str], str]:
    return lambda path: f"http://127.0.0.1:{server.port}{path}"


def test_a_page_is_fetched(url: Callable[[str], str]) -> None:
    assert fetch(RemoteUrl(url=url("/page")), OPEN) == b"a page"


def test_this_machine_is_refused_unless_allowed(server: Server, url: Callable[[str], str]) -> None:
    for address in (url("/page"), f"http://localhost:{server.port}/page", f"http://2130706433:{server.port}/page"):
        with pytest.raises(SourceForbidden, match="private network"):
            fetch_url(address, FetchLimits())
    assert server.requests == []


def test_the_name_is_resolved_once_and_the_checked_address_is_the_one_connected_to(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    limits = FetchLimits(timeout=20)
    assert fetch_url(f"http://doc.test:{server.port}/page?a=1", limits, resolver=resolver) == b"a page"
    assert asked == ["doc.test"]
    path, headers = server.requests[0]
    assert path == "/page?a=1"
    assert headers["Host"] == f"doc.test:{server.port}"


def test_every_redirect_is_checked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = {"outside.test": ["127.0.0.1"], "inside.test": ["169.254.169.254"]}
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    with pytest.raises(SourceForbidden, match=r"inside\.test"):
        fetch_url(
            f"http://outside.test:{server.port}/redirect?http://inside.test/latest/meta-data",
            FetchLimits(timeout=20),
            resolver=lambda host, port: hosts[host],
        )


def test_a_second_address_is_tried_when_the_first_is_dead(server: Server) -> None:
    found = ["::1", "127.0.0.1"]  # the server is bound to the second alone
    answer = fetch_url(f"http://doc.test:{server.port}/page", OPEN, resolver=lambda host, port: found)
    assert answer == b"a page"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/x", "gopher://host/x", "data:,x"])
def test_a_redirect_leads_only_to_http(url: Callable[[str], str], target: str) -> None:
    with pytest.raises(SourceForbidden, match="http"):
        fetch_url(url(f"/redirect?{target}"), OPEN)


def test_five_redirects_are_followed_and_no_more(url: Callable[[str], str]) -> None:
    assert fetch_url(url("/chain/5"), OPEN) == b"a page"
    with pytest.raises(FetchFailed, match="redirects"):
        fetch_url(url("/chain/6"), OPEN)
    with pytest.raises(FetchFailed, match="redirects"):
        fetch_url(url("/loop"), OPEN)


@pytest.mark.parametrize("status", [204, 299])
def test_all_of_2xx_is_an_answer(url: Callable[[str], str], status: int) -> None:
    assert fetch_url(url(f"/status/{status}"), OPEN) == b""


@pytest.mark.parametrize("status", [304, 400, 401, 404, 500])
def test_other_statuses_are_told(url: Callable[[str], str], status: int) -> None:
    with pytest.raises(FetchFailed, match=str(status)) as caught:
        fetch_url(url(f"/status/{status}"), OPEN)
    assert caught.value.hint


def test_a_declared_size_is_checked_before_reading(url: Callable[[str], str]) -> None:
    with pytest.raises(SourceTooLarge):
        fetch_url(url("/declared"), FetchLimits(allow_private=True, max_bytes=999, timeout=20))


def test_an_endless_body_is_cut_at_the_limit(url: Callable[[str], str]) -> None:
    with pytest.raises(SourceTooLarge):
        fetch_url(url("/endless"), FetchLimits(allow_private=True, max_bytes=200_000, timeout=20))


def test_a_compressed_body_is_unpacked_under_the_limit(url: Callable[[str], str]) -> None:
    assert fetch_url(url("/gzip"), OPEN) == b"z" * 100_000
    with pytest.raises(SourceTooLarge):
        fetch_url(url("/gzip"), FetchLimits(allow_private=True, max_bytes=99_999, timeout=20))


@pytest.mark.parametrize("path", ["/silence", "/drip", "/endless"])
def test_the_time_limit_holds_for_the_whole_however_the_server_stalls(url: Callable[[str], str], path: str) -> None:
    with pytest.raises(FetchFailed, match=r"0\.3 seconds"):
        fetch_url(url(path), FetchLimits(allow_private=True, max_bytes=1 << 40, timeout=0.3))


def test_a_body_that_breaks_off_is_an_error(url: Callable[[str], str]) -> None:
    with pytest.raises(FetchFailed, match="could not be reached"):
        fetch_url(url("/cut"), OPEN)


def test_nobody_listens(server: Server) -> None:
    with pytest.raises(FetchFailed, match="could not be reached"):
        fetch_url("http://127.0.0.1:1/page", OPEN)


def test_user_and_password_are_sent_and_never_shown(server: Server, url: Callable[[str], str]) -> None:
    address = url("/status/404?key=hush").replace("http://", "http://me:s%20cret@")
    with pytest.raises(FetchFailed) as caught:
        fetch_url(address, OPEN)
    assert server.requests[0][1]["Authorization"] == "Basic bWU6cyBjcmV0"
    assert "cret" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_proxies_of_the_environment_are_not_used(url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch_url(url("/page"), OPEN) == b"a page"


@pytest.mark.parametrize(
    "address", ["http://", "http://a b/", "http://ho\x00st/", "http://host/\ud800", "http://xn--/"]
)
def test_malformed_addresses(address: str) -> None:
    with pytest.raises((FetchFailed, SourceForbidden)):
        fetch_url(address, OPEN)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make a certificate")
def test_https_checks_the_certificate_against_the_name_and_not_the_address(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path, "doc.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    def resolver(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    assert fetch_url(f"https://doc.test:{server.port}/page", OPEN, resolver=resolver) == b"a page"
    with pytest.raises(FetchFailed, match="could not be reached"):
        fetch_url(f"https://other.test:{server.port}/page", OPEN, resolver=resolver)


def make_certificate(folder: Path, name: str) -> Path:
    certificate = folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(certificate), "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate
