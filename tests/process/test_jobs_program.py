"""What the real program does with jobs beside surviving: webhooks, broken folders, contracts."""

from __future__ import annotations

import hashlib
import hmac
import json
import resource
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.process.program import Start
from tests.process.test_jobs_survive import Server, check_whole, ended, job, small_pdf, submit, wait_until

pytestmark = pytest.mark.process
Got = list[tuple[dict[str, str], bytes]]


@pytest.fixture
def server(start: Start, tmp_path: Path) -> Server:
    return Server(start, tmp_path / "state")


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    server.more = {"OCR_MLX_STATE_DIR": str(server.folder)}


@pytest.fixture
def hook() -> Iterator[tuple[str, Got]]:
    """An address, and what it was sent; the first answer is 500."""
    got: Got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((dict(self.headers.items()), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{receiver.server_address[1]}/done", got
        receiver.shutdown()
        thread.join()


def test_a_webhook_tells_what_the_job_tells(server: Server, hook: tuple[str, Got]) -> None:
    address, got = hook
    server.more |= {"OCR_MLX_WEBHOOK_PRIVATE": "1", "OCR_MLX_WEBHOOK_SECRET": "sesame"}
    url = server.up()
    job_id = submit(url, small_pdf(2), webhook_url=address)
    told = ended(url, job_id)
    wait_until(lambda: got)
    headers, raw = got[0]
    body = json.loads(raw)
    assert (body["job_id"], body["status"], body["result"]) == (job_id, "completed", told["result"])
    mac = hmac.new(b"sesame", f"{headers['X-OCR-MLX-Timestamp']}.".encode() + raw, hashlib.sha256).hexdigest()
    assert headers["X-OCR-MLX-Signature"] == f"sha256={mac}"
    server.down(signal.SIGTERM)
    assert "Page number" not in server.log and address not in server.log
    assert len(got) == 1


@pytest.mark.slow
def test_a_webhook_is_delivered_after_a_kill(server: Server, hook: tuple[str, Got]) -> None:
    address, got = hook
    server.more |= {"OCR_MLX_WEBHOOK_PRIVATE": "1"}
    url = server.up()
    job_id = submit(url, small_pdf(20), webhook_url=address)
    wait_until(lambda: server.stored())
    server.down(signal.SIGKILL)
    assert got == []
    server.up()
    wait_until(lambda: got)
    assert json.loads(got[0][1])["job_id"] == job_id


def test_a_private_address_is_refused(server: Server) -> None:
    url = server.up()
    answer = httpx.post(
        f"{url}/ocr/pdf",
        files={"file": ("a.pdf", small_pdf(1))},
        data={"engine": "builtin", "webhook_url": "http://127.0.0.1:1/"},
        timeout=60,
    )
    assert answer.status_code == 400 and "OCR_MLX_WEBHOOK_PRIVATE" in answer.text
    assert not (server.folder / "jobs").exists()


def test_a_damaged_database_does_not_keep_the_server_down(server: Server) -> None:
    jobs = server.folder / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "jobs.sqlite").write_bytes(b"no database" * 1000)
    url = server.up()
    assert ended(url, submit(url, small_pdf(1)))["status"] == "completed"
    server.down(signal.SIGTERM)
    assert "the database of the jobs is damaged" in server.log and str(server.folder) not in server.log
    assert (jobs / "damaged-jobs.sqlite").exists()


@pytest.mark.slow
def test_a_database_of_a_later_version_is_left_alone(server: Server) -> None:
    jobs = server.folder / "jobs"
    jobs.mkdir(parents=True)
    with closing(sqlite3.connect(jobs / "jobs.sqlite")) as db:
        db.execute("PRAGMA user_version=99")
    url = server.up()
    answer = httpx.get(f"{url}/jobs", timeout=60)
    assert answer.status_code >= 500 and "later version" in answer.text and str(server.folder) not in answer.text
    page = {"filename": f"file://{Path('examples/page.png').resolve()}", "model": "builtin"}
    assert httpx.post(f"{url}/ocr", json=page, timeout=60).status_code == 200, "what is no job goes on"
    server.down(signal.SIGTERM)
    assert "later version" in server.log


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server.more |= {"OCR_MLX_JOBS_DIR": str(tmp_path / "file" / "jobs")}
    url = server.up()
    answer = httpx.post(
        f"{url}/ocr/pdf", files={"file": ("a.pdf", small_pdf(1))}, data={"engine": "builtin"}, timeout=60
    )
    assert answer.status_code >= 500 and "OCR_MLX_JOBS_DIR" in answer.text and str(tmp_path) not in answer.text


def is_read(url: str) -> bool:
    """Whether something is being read now."""
    health = httpx.get(f"{url}/health", headers={"Accept": "application/json"}, timeout=60).json()
    return any(model["leases"] for model in health["models"])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux' way to let a running process write no more")
def test_a_full_disk_holds_a_job_up_and_loses_nothing(server: Server) -> None:
    server.more |= {"OCR_MLX_MAX_ROWS": "1"}
    url = server.up()
    job_id = submit(url, small_pdf(30))
    wait_until(server.stored)
    pid, free = server.running[0].process.pid, resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, free))
    files = {"file": ("a.pdf", small_pdf(1))}
    answer = httpx.post(f"{url}/ocr/pdf", files=files, data={"engine": "builtin"}, timeout=60)
    assert answer.status_code == 503 and "OCR_MLX_JOBS_DIR" in answer.text and "retry-after" in answer.headers
    assert job(url, job_id)["status"] == "processing", "what is kept can be read"
    assert httpx.post(f"{url}/ocr/{job_id}/cancel", timeout=60).status_code == 503
    wait_until(lambda: not is_read(url))  # it gave up, for now
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (free, free))
    check_whole(server, url, job_id, 30)
    assert submit(url, small_pdf(1)), "and new ones are taken"
    server.down(signal.SIGTERM)
    assert server.log.index("jobs wait: ") < server.log.index("jobs go on")
    assert "Traceback" not in server.log and str(server.folder) not in server.log


@pytest.mark.parametrize("words", [("-m", "ocr_mlx.endpoint"), ("-m", "ocr_mlx", "serve")])
def test_a_contract_is_a_preset(start: Start, words: tuple[str, ...]) -> None:
    program = start("--contract", "jobs", "--port", "0", command=words)
    health = httpx.get(f"{program.ready()['url']}/health", headers={"Accept": "*/*"})
    assert health.headers["content-type"].startswith("application/json")


def test_a_contract_that_is_none(start: Start) -> None:
    program = start("--contract", "nobody")
    assert program.ends() == 2
    assert "lighton" in program.rest()[1]
