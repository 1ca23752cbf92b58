"""Jobs beyond one machine: real servers and workers around a real Redis, all of which may die."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
import redis

from tests.process.program import Program, Start
from tests.process.redis_server import Proxy, RedisServer, document, eventually, line, redis_server  # noqa: F401

pytestmark = [pytest.mark.process, pytest.mark.slow]
SHARE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Fleet:
    """One server at a time, and workers."""

    def __init__(self, start: Start, redis: RedisServer) -> None:
        self._start = start
        self._redis = redis
        self.redis_url = redis.url
        self.server = self.serve()
        self.job_id = ""

    def serve(self) -> Program:
        quiet = {"OCR_MLX_LOG_LEVEL": "warning", "OCR_MLX_WEBHOOK_PRIVATE": "1"}
        server = self._start("--port", "0", OCR_MLX_REDIS_URL=self._redis.url, **quiet, **SHARE)
        self.url = server.ready()["url"]
        return server

    def work(
        self, url: str = "", *, rows: int = 4, ready: bool = True, session: bool = False, **environ: str
    ) -> Program:
        command = ("-m", "ocr_mlx", "worker")
        url = url or self._redis.url
        environ = {"OCR_MLX_REDIS_URL": url, **SHARE, **environ}
        worker = self._start(f"--rows={rows}", command=command, session=session, **environ)
        if ready:
            assert worker.ready()["event"] == "ready"
        return worker

    def submit(self, pages: int, lines: int = 4, **more: str) -> None:
        files = {"file": ("report.pdf", document(pages, lines), "application/pdf")}
        answer = httpx.post(f"{self.url}/ocr/pdf", files=files, data={"engine": "builtin"} | more, timeout=30)
        assert answer.status_code == 202, answer.text
        self.job_id = answer.json()["job_id"]

    def look(self) -> dict[str, Any]:
        """The job; empty while the server or Redis is away."""
        try:
            answer = httpx.get(f"{self.url}/ocr/{self.job_id}", timeout=10)
        except httpx.TransportError:
            return {}
        assert answer.status_code in (200, 503), answer.text
        found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return found

    def reaches(self, pages: int, seconds: float = 60.0) -> None:
        """Wait until so many pages are done."""
        eventually(lambda: (self.look().get("progress") or {"done": -1})["done"] >= pages, seconds)

    def completes(self, pages: int, seconds: float) -> None:
        """The job ends, and every page is in the result once, in order."""
        eventually(lambda: self.look().get("status") in ("completed", "failed"), seconds, every=0.2)
        job = self.look()
        assert job["status"] == "completed", job["error"]
        assert job["progress"] == {"done": pages, "total": pages}
        told = job["result"]["metadata"]["pages"]
        assert [page["page_number"] for page in told] == list(range(1, pages + 1))
        assert {(page["status"], page["error"]) for page in told} == {("ok", None)}
        text = job["result"]["formatted_text"].replace(" ", "")  # the model sees one in "11"
        said = [one for one in text.splitlines() if one.startswith("Pagenumber")]
        assert said == [line(number).replace(" ", "") for number in range(1, pages + 1)]

    def leaves_nothing(self, seconds: float) -> None:
        """No unit is queued, claimed or forgotten in a dead worker's hands; no document is kept."""
        with redis.Redis(port=self._redis.port) as client:

            def left() -> set[str]:
                names = {name.decode() for name in client.keys("ocr_mlx:*")}
                ends = ("units", "units.msgs", "document", "open")
                return {name for name in names if name.endswith(ends) or "__acks__" in name}

            eventually(lambda: not left(), seconds, every=0.5)


@pytest.fixture
def fleet(start: Start, redis_server: RedisServer) -> Fleet:  # noqa: F811
    return Fleet(start, redis_server)


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:  # noqa: F811
    made = Proxy(redis_server.port)
    yield made
    made.close()


@pytest.mark.slow
def test_two_workers_read_one_document_and_one_may_leave(fleet: Fleet) -> None:
    leaver = fleet.work(ready=False, OCR_MLX_DRAIN="0")
    stayer = fleet.work()
    leaver.ready()
    fleet.submit(24, lines=6)
    fleet.reaches(3)
    leaver.process.send_signal(signal.SIGTERM)
    fleet.completes(24, 30)
    assert leaver.ends() == 0
    assert stayer.process.poll() is None
    fleet.leaves_nothing(5)


@pytest.mark.slow
def test_a_cancelled_job_stops_and_its_pages_are_left(fleet: Fleet) -> None:
    worker = fleet.work()
    fleet.submit(60, lines=10)
    fleet.reaches(1)
    answer = httpx.post(f"{fleet.url}/ocr/{fleet.job_id}/cancel")
    assert answer.status_code == 200
    done = answer.json()["progress"]["done"]
    assert 1 <= done < 60
    fleet.leaves_nothing(5)
    assert fleet.look()["progress"]["done"] == done
    worker.process.send_signal(signal.SIGINT)
    assert worker.ends() == 0
    assert "Traceback" not in worker.rest()[1]


@pytest.mark.slow
def test_a_server_tells_of_a_job_that_workers_ended_while_it_was_dead(fleet: Fleet) -> None:
    told: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        fleet.submit(2, webhook_url=f"http://127.0.0.1:{receiver.server_port}/done")
        fleet.server.process.kill()
        fleet.work()
        with redis.Redis.from_url(fleet.redis_url) as client:
            eventually(lambda: client.hget(f"ocr_mlx:job:{fleet.job_id}", "state") == b"completed", 30)
        fleet.server = fleet.serve()
        eventually(lambda: bool(told), 15)
        receiver.shutdown()
    assert [(one["job_id"], one["status"]) for one in told] == [(fleet.job_id, "completed")]
    fleet.completes(2, 5)


@pytest.mark.slow
def test_a_worker_waits_for_redis_and_outlives_it(fleet: Fleet, proxy: Proxy) -> None:
    proxy.cut()
    worker = fleet.work(proxy.url, ready=False, OCR_MLX_DRAIN="0")
    time.sleep(2.5)
    assert worker.process.poll() is None
    proxy.mend()
    worker.ready()
    proxy.cut()
    time.sleep(1.5)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.ends() == 0
    errors = worker.rest()[1]
    assert errors.count("cannot be reached") >= 2 and "Traceback" not in errors


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_gives_the_pages_in_work_back(fleet: Fleet) -> None:
    """The terminal sends it to every process of the worker."""
    worker = fleet.work(session=True, OCR_MLX_DRAIN="0")
    fleet.submit(14, lines=8)
    fleet.reaches(2)
    os.killpg(worker.process.pid, signal.SIGINT)
    assert worker.ends() == 0
    assert "Traceback" not in worker.rest()[1]
    assert 2 <= fleet.look()["progress"]["done"] < 14
    fleet.work()
    fleet.completes(14, 60)
    fleet.leaves_nothing(5)


@pytest.mark.slow
def test_a_job_is_cancelled_while_its_worker_is_dead(fleet: Fleet) -> None:
    victim = fleet.work()
    fleet.submit(40, lines=10)
    fleet.reaches(2)
    victim.process.kill()
    ended = httpx.post(f"{fleet.url}/ocr/{fleet.job_id}/cancel").json()
    assert (ended["status"], ended["cancelled"]) == ("failed", True) and ended["progress"]["done"] >= 2
    fleet.work()
    fleet.leaves_nothing(60)
    assert fleet.look()["progress"] == ended["progress"]


@pytest.mark.slow
def test_a_redis_that_is_full_for_a_while_holds_pages_up(fleet: Fleet) -> None:
    worker = fleet.work()
    fleet.submit(2)
    other = fleet.job_id
    fleet.completes(2, 30)
    fleet.submit(16, lines=8)
    fleet.reaches(2)
    with redis.Redis.from_url(fleet.redis_url) as client:
        client.config_set("maxmemory", 1)
        time.sleep(2.0)
        assert fleet.look()["progress"]["done"] < 16 and fleet.look()["status"] == "processing"
        files = {"file": ("report.pdf", document(1), "application/pdf")}
        answer = httpx.post(f"{fleet.url}/ocr/pdf", files=files, data={"engine": "builtin"}, timeout=30)
        assert answer.status_code == 429 and "full" in answer.json()["detail"]
        assert httpx.delete(f"{fleet.url}/ocr/{other}").status_code == 204, "which makes room"
        client.config_set("maxmemory", 0)
    fleet.completes(16, 90)
    worker.process.terminate()
    assert worker.ends() == 0 and "Traceback" not in worker.rest()[1]


def test_a_server_starts_before_its_redis(start: Start, redis_server: RedisServer) -> None:  # noqa: F811
    redis_server.stop()
    server = start("--contract", "jobs", "--port", "0", OCR_MLX_REDIS_URL=redis_server.url)
    with httpx.Client(base_url=server.ready()["url"], timeout=30) as client:
        health = client.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["redis"]) == (200, "healthy", "unhealthy")
        files = {"file": ("report.pdf", document(1), "application/pdf")}
        answers = [
            client.post("/ocr/pdf", files=files, data={"engine": "builtin"}),
            client.get("/ocr/00000000-0000-4000-8000-000000000000"),
            client.get("/jobs"),
            client.post("/models/switch", json={"model": "got"}),
        ]
        for answer in answers:
            assert answer.status_code == 503 and "Redis" in answer.json()["detail"] and "retry-after" in answer.headers
        redis_server.start()
        eventually(lambda: client.get("/health").json()["redis"] == "healthy", 10)
        eventually(lambda: client.get("/jobs").status_code == 200, 10)
        assert client.post("/ocr/pdf", files=files, data={"engine": "builtin"}).status_code == 202
    server.process.terminate()
    assert server.ends() == 0 and "Traceback" not in server.rest()[1]


def test_a_worker_without_redis_says_which_setting(start: Start) -> None:
    worker = start(command=("-m", "ocr_mlx", "worker"))
    out, errors = worker.rest()
    assert worker.process.returncode == 2
    assert out == "" and "OCR_MLX_REDIS_URL" in errors and "Traceback" not in errors


@pytest.mark.parametrize("module", ["ocr_mlx.endpoint", "ocr_mlx.cli.app"])
def test_missing_packages_are_named(start: Start, module: str) -> None:
    arguments = [] if module == "ocr_mlx.endpoint" else ["worker"]
    code = f"import sys; sys.modules['dramatiq'] = None; from {module} import main; sys.exit(main({arguments}))"
    program = start(command=("-c", code), OCR_MLX_REDIS_URL="redis://127.0.0.1:1/0", OCR_MLX_PORT="0")
    out, errors = program.rest()
    assert program.process.returncode == 2
    assert out == "" and "pip install 'ocr_mlx[redis]'" in errors and "Traceback" not in errors


@pytest.mark.slow
def test_every_page_once_whoever_dies(fleet: Fleet, proxy: Proxy, redis_server: RedisServer) -> None:  # noqa: F811
    victim, _, _ = fleet.work(), fleet.work(proxy.url), fleet.work()
    fleet.submit(60, lines=10)
    fleet.reaches(5)
    victim.process.kill()
    fleet.reaches(12)
    proxy.cut()
    fleet.reaches(20)
    redis_server.kill()
    time.sleep(1.0)
    redis_server.start()
    fleet.reaches(28)
    fleet.server.process.kill()
    fleet.server = fleet.serve()
    fleet.reaches(36)
    proxy.mend()
    fleet.completes(60, 120)
    fleet.leaves_nothing(60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_page_once_in_any_order_of_accidents(
    fleet: Fleet,
    proxy: Proxy,
    redis_server: RedisServer,  # noqa: F811
    seed: int,
) -> None:
    chance = random.Random(seed)
    workers = [fleet.work(), fleet.work(proxy.url), fleet.work()]

    def restart_redis() -> None:
        chance.choice((redis_server.kill, redis_server.stop))()
        time.sleep(chance.uniform(0, 3))
        redis_server.start()

    def restart_server() -> None:
        fleet.server.process.kill()
        fleet.server = fleet.serve()

    accidents: list[Callable[[], None]] = [
        workers[0].process.kill,
        proxy.cut,
        lambda: workers[2].process.send_signal(signal.SIGSTOP),
        restart_redis,
        restart_server,
    ]
    chance.shuffle(accidents)
    fleet.submit(60, lines=10)
    for accident in accidents:
        time.sleep(chance.uniform(0.2, 1.5))
        accident()
    proxy.mend()
    time.sleep(chance.uniform(0, 15))
    workers[2].process.send_signal(signal.SIGCONT)
    fleet.completes(60, 150)
    fleet.leaves_nothing(60)


def test_a_worker_with_a_wrong_password_ends_and_says_so(start: Start, redis_server: RedisServer) -> None:  # noqa: F811
    with redis.Redis(port=redis_server.port) as admin:
        admin.config_set("requirepass", "right-secret")
    url = redis_server.url.replace("//", "//:wrong-secret@")
    worker = start("--rows=1", command=("-m", "ocr_mlx", "worker"), OCR_MLX_REDIS_URL=url)
    out, log = worker.rest()
    assert worker.process.returncode == 2
    assert "Redis refuses the user or password in OCR_MLX_REDIS_URL" in log and f":{redis_server.port}" in log
    assert "secret" not in out + log and "Traceback" not in log
