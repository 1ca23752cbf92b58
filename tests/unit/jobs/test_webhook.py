"""Webhooks to a real server on a local port."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ocr_mlx.domain import PageError
from ocr_mlx.errors import JobsUnavailable, SourceForbidden
from ocr_mlx.jobs.local.store import SqliteStore
from ocr_mlx.jobs.records import Delivery, Job, JobState
from ocr_mlx.jobs.webhook import DELIVERY, SIGNATURE, TIMESTAMP, WebhookOptions, Webhooks, signature
from tests.unit.jobs.made import a_job, a_page

SECRET = "sesame"
WAIT = 10.0


@dataclass
class Receiver:
    """What came in; answers with `statuses`, then 200, and first waits for `slow` seconds."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    slow: float = 0.0
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    box = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            box.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            time.sleep(box.slow)
            self.send_response(box.statuses.pop(0) if box.statuses else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
            box.arrived.set()

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        box.url = f"http://127.0.0.1:{server.server_address[1]}/hook?for=me"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield box
        server.shutdown()
        thread.join()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "jobs")
    yield store
    store.close()


@contextmanager
def delivering(store: SqliteStore, **more: Any) -> Iterator[Webhooks]:
    names = ("timeout", "retries", "secret", "private", "drain")
    options = {"private": True, "secret": SECRET} | {name: more.pop(name) for name in names if name in more}
    webhooks = Webhooks(store, WebhookOptions(**options), **more)
    yield webhooks
    webhooks.close()


def finished(store: SqliteStore, url: str, state: JobState = JobState.COMPLETED, error: PageError | None = None) -> Job:
    job = a_job(pages=1, webhook_url=url)
    store.add(job, b"x")
    store.put_page(job.id, a_page(0, "Grüße", confidence=0.5, generated_tokens=3))
    store.finish(job.id, state, error)
    return store.get(job.id)


def test_the_body_of_a_completed_job(store: SqliteStore, receiver: Receiver) -> None:
    job = finished(store, receiver.url)
    with delivering(store) as webhooks:
        delivery = webhooks.attempt(job)
    headers, raw = receiver.got[0]
    body = json.loads(raw)
    assert body.keys() == {"job_id", "status", "filename", "result", "error"}
    assert (body["job_id"], body["status"], body["filename"], body["error"]) == (
        job.id,
        "completed",
        "letter.pdf",
        None,
    )
    assert body["result"]["text"] == "=== Page 1 of 1 ===\nGrüße" and body["result"]["confidence"] == 0.5
    assert headers["content-type"] == "application/json"
    assert (delivery.state, delivery.attempts, delivery.status) == ("delivered", 1, 200)
    assert store.get(job.id).delivery == delivery and delivery.delivered_at is not None


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_the_body_of_one_that_failed(store: SqliteStore, receiver: Receiver, state: JobState) -> None:
    job = finished(store, receiver.url, state, PageError(code="bad_pdf", message="The PDF is damaged."))
    with delivering(store) as webhooks:
        webhooks.attempt(job)
    body = json.loads(receiver.got[0][1])
    assert (body["status"], body["result"], body["error"]) == ("failed", None, "The PDF is damaged.")


def test_the_signature_is_over_time_and_body(store: SqliteStore, receiver: Receiver) -> None:
    with delivering(store, clock=lambda: 1234.5) as webhooks:
        webhooks.attempt(finished(store, receiver.url))
    headers, body = receiver.got[0]
    assert headers[TIMESTAMP.lower()] == "1234"
    expected = "sha256=" + hmac.new(SECRET.encode(), b"1234." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(headers[SIGNATURE.lower()], expected)
    assert signature(SECRET, "1234", body) == expected != signature(SECRET, "1235", body)


def test_without_a_secret_there_is_no_signature(store: SqliteStore, receiver: Receiver) -> None:
    with delivering(store, secret="") as webhooks:
        webhooks.attempt(finished(store, receiver.url))
    headers, _ = receiver.got[0]
    assert SIGNATURE.lower() not in headers and TIMESTAMP.lower() in headers


def test_failed_attempts_are_repeated_later_and_later_under_one_id(store: SqliteStore, receiver: Receiver) -> None:
    receiver.statuses = [500, 503, 404]
    job = finished(store, receiver.url)
    now, waits = 1000.0, []
    with delivering(store, clock=lambda: now, jitter=lambda: 0.5) as webhooks:
        for _ in range(4):
            delivery = webhooks.attempt(job)
            if delivery.next_at is not None:
                waits.append(delivery.next_at - now)
                assert not store.due(delivery.next_at - 0.1, lease=0)
                assert len(store.due(delivery.next_at, lease=0)) == 1
    assert waits == [5.0, 20.0, 80.0]
    assert (delivery.state, delivery.attempts, delivery.status) == ("delivered", 4, 200)
    assert len({headers[DELIVERY.lower()] for headers, _ in receiver.got}) == 1
    assert len({body for _, body in receiver.got}) == 1


def test_after_the_last_attempt_it_is_failed_for_good(store: SqliteStore, receiver: Receiver) -> None:
    receiver.statuses = [500] * 9
    job = finished(store, receiver.url)
    with delivering(store, retries=1) as webhooks:
        assert webhooks.attempt(job).state == "waiting"
        delivery = webhooks.attempt(job)
    assert (delivery.state, delivery.attempts, delivery.next_at) == ("failed", 2, None)
    assert delivery.message == "answered with status 500" and store.due(1e12, lease=0) == ()


def test_redirects_are_failed_attempts(store: SqliteStore, receiver: Receiver) -> None:
    receiver.statuses = [302]
    with delivering(store) as webhooks:
        delivery = webhooks.attempt(finished(store, receiver.url))
    assert delivery.state == "waiting" and "redirects are not followed" in delivery.message
    assert len(receiver.got) == 1


def test_a_receiver_that_takes_too_long(store: SqliteStore, receiver: Receiver) -> None:
    receiver.slow = 0.5
    with delivering(store, timeout=0.1) as webhooks:
        delivery = webhooks.attempt(finished(store, receiver.url))
    assert (delivery.state, delivery.status, delivery.message) == ("waiting", None, "no answer within 0.1 seconds")


def test_a_receiver_that_takes_a_large_body_in_sips(store: SqliteStore) -> None:
    """The time is for everything: no receiver holds a delivery's thread by being just fast enough for each write."""
    job = a_job(pages=1, webhook_url="http://receiver.example/")
    store.add(job, b"x")
    store.put_page(job.id, a_page(0, "x" * 20_000_000))
    store.finish(job.id, JobState.COMPLETED)
    ended = threading.Event()

    def sip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while not ended.wait(0.05) and connection.recv(200_000):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=sip, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        began = time.monotonic()
        with delivering(store, timeout=0.5) as webhooks:
            delivery = webhooks.attempt(replace(store.get(job.id), webhook_url=url))
        took = time.monotonic() - began
        ended.set()
        thread.join()
    assert delivery.message == "no answer within 0.5 seconds" and took < 2.0


def test_a_receiver_that_is_not_there(store: SqliteStore, receiver: Receiver) -> None:
    url = "http://127.0.0.1:9/hook"
    with delivering(store) as webhooks:
        delivery = webhooks.attempt(finished(store, url))
    assert (delivery.state, delivery.message) == ("waiting", "the host could not be reached")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/hook",
        "http://localhost:8000/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "https://192.168.1.4/x",
        "http://169.254.169.254/latest/meta-data",
        "http://0.0.0.0/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "not an address",
        "http://",
        "http://xn--/",
        "https://example.com/" + "x" * 3000,
    ],
)
def test_addresses_that_are_refused_when_a_job_is_submitted(store: SqliteStore, url: str) -> None:
    with delivering(store, private=False) as webhooks, pytest.raises(SourceForbidden):
        webhooks.check(url)


def test_addresses_that_are_taken(store: SqliteStore) -> None:
    def not_now(_host: str, _port: int) -> list[str]:
        raise OSError

    with delivering(store, private=False, resolver=lambda _host, _port: ["93.184.215.14"]) as webhooks:
        webhooks.check("https://example.com/hook")
    with delivering(store, private=False, resolver=not_now) as webhooks:
        webhooks.check("https://not-known-yet.example/hook")
    with delivering(store, private=True) as webhooks:
        webhooks.check("http://127.0.0.1:8000/hook")


def test_a_name_that_moves_inside_is_not_connected_to(store: SqliteStore, receiver: Receiver) -> None:
    """The check at connect time is the one that counts: a name can answer differently the second time."""
    answers = [["93.184.215.14"], ["127.0.0.1"]]
    with delivering(store, private=False, resolver=lambda _host, _port: answers.pop(0)) as webhooks:
        url = receiver.url.replace("127.0.0.1", "rebind.example")
        webhooks.check(url)
        delivery = webhooks.attempt(finished(store, url))
    assert "private network" in delivery.message and delivery.state == "waiting" and receiver.got == []


def test_the_threads_deliver_what_is_due(store: SqliteStore, receiver: Receiver) -> None:
    with delivering(store) as webhooks:
        webhooks.start()
        job = finished(store, receiver.url)
        webhooks.wake()
        assert receiver.arrived.wait(WAIT)
        end = time.monotonic() + WAIT
        while store.get(job.id).delivery.state != "delivered" and time.monotonic() < end:
            time.sleep(0.01)
        assert store.get(job.id).delivery.state == "delivered"
        assert webhooks.step() == 0 and len(receiver.got) == 1


def test_an_outage_is_told_once_and_delivery_goes_on_when_woken(
    store: SqliteStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finished(store, receiver.url)
    tries: list[None] = []
    usual = SqliteStore.due

    def out(*_args: Any, **_more: Any) -> tuple[Job, ...]:
        tries.append(None)
        raise JobsUnavailable("The job queue (Redis) cannot be reached.")

    monkeypatch.setattr(SqliteStore, "due", out)
    with caplog.at_level("INFO", "ocr_mlx.jobs"), delivering(store) as webhooks:
        webhooks.start()
        for number in range(1, 4):
            end = time.monotonic() + WAIT
            while len(tries) < number and time.monotonic() < end:
                webhooks.wake()
                time.sleep(0.01)
        monkeypatch.setattr(SqliteStore, "due", usual)
        began = time.monotonic()
        webhooks.wake()
        assert receiver.arrived.wait(WAIT) and time.monotonic() - began < 1.5
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told[:2] == [
        ("WARNING", "webhooks wait: The job queue (Redis) cannot be reached."),
        ("INFO", "webhooks go on"),
    ]


def test_closing_waits_for_what_is_being_sent(store: SqliteStore, receiver: Receiver) -> None:
    receiver.slow = 0.4
    job = finished(store, receiver.url)
    with delivering(store) as webhooks:
        assert webhooks.step() == 1
        while not receiver.got:
            time.sleep(0.01)
    assert store.get(job.id).delivery.state == "delivered"


def test_what_is_sent_for_longer_than_the_drain_is_left_without_an_error(
    store: SqliteStore, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.slow = 0.5
    finished(store, receiver.url)
    began = time.monotonic()
    with delivering(store, drain=0.1) as webhooks:
        webhooks.step()
        while not receiver.got:
            time.sleep(0.01)
    store.close()
    assert time.monotonic() - began < 0.45
    webhooks._pool.shutdown(wait=True)
    assert caplog.text == ""


def test_what_a_dead_process_was_delivering_is_delivered_again(store: SqliteStore, receiver: Receiver) -> None:
    job = finished(store, receiver.url)
    now = time.time()
    assert len(store.due(now, lease=60)) == 1
    assert store.get(job.id).delivery == Delivery(state="waiting")
    with delivering(store, clock=lambda: now + 61) as webhooks:
        assert webhooks.step() == 1
        assert receiver.arrived.wait(WAIT)


def test_a_job_that_was_deleted_meanwhile(store: SqliteStore, receiver: Receiver) -> None:
    job = finished(store, receiver.url)
    store.delete(job.id)
    with delivering(store) as webhooks:
        webhooks._attempt(job, time.time() + 60)
    assert receiver.got == []


def test_it_waits_no_longer_than_an_hour(store: SqliteStore, receiver: Receiver) -> None:
    with delivering(store, jitter=lambda: 0.0) as webhooks:
        assert webhooks._delay(1) == 2.5 and webhooks._delay(20) == 1800.0
    with delivering(store, jitter=lambda: 1.0) as webhooks:
        assert webhooks._delay(20) == 5400.0
    assert replace(Delivery(), attempts=1).attempts == 1


def example(language: str) -> str:
    text = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text("utf-8")
    return text.split(f"```{language}\n")[1].split("```")[0]


def test_the_documented_check_in_python() -> None:
    space: dict[str, Any] = {}
    exec(example("python"), space)
    stamp, body = str(int(time.time())), b'{"job_id": "1"}'
    headers = {TIMESTAMP: stamp, SIGNATURE: signature(SECRET, stamp, body)}
    assert space["is_genuine"](SECRET, headers, body)
    assert not space["is_genuine"](SECRET, headers, body + b" ")
    assert not space["is_genuine"]("another", headers, body)
    old = str(int(time.time()) - 600)
    assert not space["is_genuine"](SECRET, {TIMESTAMP: old, SIGNATURE: signature(SECRET, old, body)}, body)


def test_the_documented_check_in_node() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    stamp, body = str(int(time.time())), "{}"
    headers = {TIMESTAMP.lower(): stamp, SIGNATURE.lower(): signature(SECRET, stamp, body.encode())}
    calls = f"""
    const headers = {json.dumps(headers)};
    console.log(isGenuine("{SECRET}", headers, Buffer.from("{body}")), isGenuine("{SECRET}", headers, Buffer.from("[]")),
                isGenuine("{SECRET}", {{"x-ocr-mlx-timestamp": "{stamp}"}}, Buffer.from("{body}")));
    """
    told = subprocess.run([node, "-e", example("js") + calls], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["true", "false", "false"]
