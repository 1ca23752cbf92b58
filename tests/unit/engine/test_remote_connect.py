"""Where engines elsewhere may be, and how much of an answer is taken: a fake engine on a real socket."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from ocr_mlx.domain import OcrRequest, PageResult, PageStatus, Upload
from ocr_mlx.engine.remote import RemoteOptions, parse, reference
from ocr_mlx.engine.remote_client import Question, RemoteClient
from ocr_mlx.engine.remote_connect import EngineTransport
from ocr_mlx.engine.remote_reading import RemoteEngines, RemoteReading
from ocr_mlx.engine.stop import Stop
from ocr_mlx.errors import OcrMlxError, RemoteFailed, SourceForbidden
from ocr_mlx.pages import addresses
from tests.unit.engine.fake_engine import WAIT, Answer, FakeEngine, Handler, completes, delta, engine, streams
from tests.unit.engine.test_remote_reading import pages
from tests.unit.pages.limited import peak_growth

ANY = frozenset({"*"})


def ask(
    url: str, options: RemoteOptions, resolver: addresses.Resolver = addresses.resolve, model: str = "any"
) -> PageResult:
    def connect(options: RemoteOptions) -> RemoteClient:
        return RemoteClient(options, transport=EngineTransport(options, resolver=resolver), first_wait=0.01)

    engines, threads = RemoteEngines(options, connect=connect), ThreadPoolExecutor(2)
    try:
        remote = engines.find(reference(url, model))
        request = OcrRequest(source=Upload(data=b""))
        (result,) = RemoteReading(engines, remote, threads, pages(1), request, lambda _event: None, Stop()).run()
        return result
    finally:
        engines.close()
        threads.shutdown()


def read(answer: Answer, **options: Any) -> tuple[PageResult, FakeEngine]:
    with engine(answer) as fake:
        return ask(fake.url, RemoteOptions(**{"hosts": None, "timeout": WAIT, **options})), fake


# --- where -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "127.1", "0.0.0.0"])
def test_every_engine_means_every_public_one(host: str) -> None:
    with engine() as fake:
        result = ask(f"http://{host}:{fake.port}/v1", RemoteOptions(hosts=ANY))
    assert (result.status, fake.requests) == (PageStatus.FAILED, [])
    assert result.error is not None and result.error.code == SourceForbidden.code
    assert "OCR_MLX_REMOTE_HOSTS" in result.error.message and "127.0.0.1" not in result.error.message


@pytest.mark.parametrize("named", [{"*", "127.0.0.1:PORT"}, {"127.0.0.1:PORT"}, None])
def test_an_engine_that_is_named_may_be_anywhere(named: set[str] | None) -> None:
    with engine() as fake:
        hosts = None if named is None else frozenset(name.replace("PORT", str(fake.port)) for name in named)
        assert ask(fake.url, RemoteOptions(hosts=hosts)).text == "Hello"


def test_the_configured_engine_may_be_anywhere() -> None:
    with engine() as fake:
        assert ask(fake.url, RemoteOptions(endpoint=fake.url, hosts=ANY)).text == "Hello"


def test_an_engine_is_named_by_host_and_port() -> None:
    options = RemoteOptions(endpoint="http://gpu:8001/v1", hosts=frozenset({"*", "lan", "lan:9", "[::1]:8000"}))
    assert options.trusts("gpu", 8001) and options.trusts("lan", 80) and options.trusts("lan", 443)
    assert options.trusts("lan", 9) and options.trusts("::1", 8000) and options.trusts("[::1]", 8000)
    assert not options.trusts("gpu", 8002) and not options.trusts("lan", 8000) and not options.trusts("::1", 80)
    assert RemoteOptions(hosts=None).trusts("anything", 1) and not RemoteOptions().trusts("anything", 80)


def test_a_name_is_resolved_once_and_the_checked_address_is_the_one_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers, asked = [["127.0.0.1"], ["10.0.0.1"]], []
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")

    def resolver(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return answers.pop(0)

    with engine() as fake:
        url = f"http://gpu.test:{fake.port}/v1"
        assert ask(url, RemoteOptions(hosts=ANY), resolver).text == "Hello"
        assert fake.requests[0][1]["Host"] == f"gpu.test:{fake.port}"
        again = ask(url, RemoteOptions(hosts=ANY), resolver)
    assert again.error is not None and again.error.code == SourceForbidden.code
    assert asked == [("gpu.test", fake.port)] * 2 and len(fake.requests) == 1


def test_a_name_that_is_not_found_and_one_that_is_half_inside() -> None:
    def nowhere(_host: str, _port: int) -> list[str]:
        raise OSError

    missing = ask("http://gpu.test/v1", RemoteOptions(hosts=ANY), nowhere)
    assert missing.error is not None and "name is not known" in missing.error.message
    both = ask("http://gpu.test/v1", RemoteOptions(hosts=ANY), lambda _host, _port: ["93.184.215.14", "10.0.0.1"])
    assert both.error is not None and both.error.code == SourceForbidden.code


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert read(streams("Hello"))[0].text == "Hello"


def test_a_name_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    result = ask("http://gpu.invalid/v1", RemoteOptions(hosts=None))
    assert result.error is not None and result.error.code == RemoteFailed.code
    assert "name is not known" in result.error.message and "gpu.invalid" not in result.error.message


def test_however_many_engines_are_named_nothing_of_them_stays() -> None:
    def picky(handler: Handler, body: Mapping[str, Any]) -> None:
        handler.whole(400, {"error": "no"}) if "stream" in body else completes("plain")(handler, body)

    client = RemoteClient(RemoteOptions(hosts=None, timeout=WAIT), first_wait=0.01)
    done: SimpleQueue[OcrMlxError | None] = SimpleQueue()
    try:
        with engine() as fake:
            fake.otherwise = picky
            for number in range(3):
                remote = parse(reference(f"{fake.url}/{number}", "any"))
                client.ask(
                    Question(remote=remote, key="", body={}), lambda _text: None, lambda _a, error, _c: done.put(error)
                )
            assert [done.get(timeout=WAIT) for _ in range(3)] == [None] * 3
        assert (len(client._places), len(client._ways)) == (0, 3)
    finally:
        client.close()


# --- encrypted -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for localhost that signs itself, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = [openssl, "req", *kind, *named, "-keyout", str(path), "-out", str(path.with_name("cert.pem"))]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_name("cert.pem").read_text())
    return path


def test_an_engine_whose_certificate_nobody_signed(certificate: Path) -> None:
    with engine(certificate=certificate) as fake:
        result = ask(f"https://localhost:{fake.port}/v1", RemoteOptions(hosts=None))
    assert result.error is not None and result.error.code == RemoteFailed.code
    assert "certificate is not trusted" in result.error.message and fake.requests == []


def test_an_authority_of_this_machine_counts(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("cert.pem")))
    with engine(certificate=certificate) as fake:
        good = ask(f"https://localhost:{fake.port}/v1", RemoteOptions(hosts=None))
        other = ask(f"https://127.0.0.1:{fake.port}/v1", RemoteOptions(hosts=None))
    assert good.text == "Hello"
    assert other.error is not None and "Use the name that it is for" in other.error.message


def test_an_engine_that_does_not_encrypt_and_one_that_wants_to(certificate: Path) -> None:
    with engine() as fake:
        plain = ask(f"https://127.0.0.1:{fake.port}/v1", RemoteOptions(hosts=None))
    assert plain.error is not None and "http://" in plain.error.message
    with engine(certificate=certificate) as fake:
        bare = ask(f"http://127.0.0.1:{fake.port}/v1", RemoteOptions(hosts=None))
    assert bare.error is not None and "connection to the remote engine broke" in bare.error.message


# --- how much --------------------------------------------------------------------------------------------------------


def endless(say: Callable[[Handler], None], kind: str = "text/event-stream") -> Answer:
    def answer(handler: Handler, _body: Mapping[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        while True:
            say(handler)

    return answer


LINE = b": " + b"x" * 100_000 + b"\n"
BAD: dict[str, Answer] = {
    "comments": endless(lambda handler: handler.wfile.write(LINE)),
    "one line": endless(lambda handler: handler.wfile.write(b"x" * 100_000)),
    "empty events": endless(lambda handler: handler.say({"choices": [], "padding": "x" * 100_000})),
    "a whole answer": endless(lambda handler: handler.wfile.write(b" " * 100_000), "application/json"),
    "nested": endless(lambda handler: handler.say("[" * 100_000)),
    "numbers": endless(lambda handler: handler.say('{"usage": {"prompt_tokens": ' + "9" * 5000 + "}}")),
}


@pytest.mark.parametrize("bad", BAD)
def test_an_answer_without_end_or_measure_fails_the_page(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocr_mlx.engine.remote_client._MOST_STREAM", 1 << 22)
    began = time.monotonic()
    result, fake = read(BAD[bad], timeout=60)
    assert result.status is PageStatus.FAILED and result.error is not None
    assert result.error.code == RemoteFailed.code and time.monotonic() - began < 20
    assert fake.requests[0][1]["Accept-Encoding"] == "identity"


def test_an_error_without_end_is_told_without_its_words() -> None:
    def answer(handler: Handler, _body: Mapping[str, Any]) -> None:
        handler.send_response(500)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 100_000)

    result, _ = read(answer)
    assert result.error is not None and "status 500" in result.error.message and "xxx" not in result.error.message


def test_an_engine_that_drips_is_given_up_in_time() -> None:
    def say(handler: Handler) -> None:
        handler.say(delta(""))
        time.sleep(0.02)

    result, _ = read(endless(say), timeout=0.4)
    assert result.error is not None and result.error.code == "timed_out"


def test_a_compressed_answer_is_not_unpacked() -> None:
    whole = json.dumps({"choices": [], "padding": "x" * 10_000_000}).encode()
    bomb = gzip.compress(whole, 1)

    def answer(handler: Handler, _body: Mapping[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(bomb)))
        handler.end_headers()
        handler.wfile.write(bomb)

    with peak_growth(5_000_000):
        result, _ = read(answer)
    assert result.error is not None and result.error.code == RemoteFailed.code
