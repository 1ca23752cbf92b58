"""Jobs of the real program with the built-in model, whatever happens to its process."""

from __future__ import annotations

import io
import random
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.process.program import Program, Start

pytestmark = [pytest.mark.process, pytest.mark.slow]

PAGES = 50
WAIT = 60.0
ENDED = ("completed", "failed")


def small_pdf(pages: int) -> bytes:
    """Two short lines a page, each page its own."""
    font = ImageFont.load_default(size=22)
    drawn = []
    for number in range(1, pages + 1):
        drawn.append(Image.new("RGB", (360, 90), "white"))
        draw = ImageDraw.Draw(drawn[-1])
        draw.text((20, 12), f"Page number {number}", fill="black", font=font)
        draw.text((20, 46), "is short.", fill="black", font=font)
    file = io.BytesIO()
    drawn[0].save(file, "PDF", save_all=True, append_images=drawn[1:], resolution=100.0, quality=95)
    return file.getvalue()


@dataclass
class Server:
    """The program on one state folder, started as often as it takes; its log says what was read."""

    start: Start
    folder: Path
    log: str = ""
    running: list[Program] = field(default_factory=list)
    more: dict[str, str] = field(default_factory=dict)

    def up(self, port: int = 0) -> str:
        environ = {"OCR_MLX_LOG_LEVEL": "debug", "OCR_MLX_MAX_ROWS": "4"} | self.more
        program = self.start("--port", str(port), **environ)
        self.running.append(program)
        return str(program.ready()["url"])

    def down(self, sig: signal.Signals) -> int:
        program = self.running.pop(0)
        program.process.send_signal(sig)
        self.log += program.rest()[1]
        return program.process.returncode

    def reads(self) -> Counter[tuple[str, str]]:
        """How often each page of each job was read."""
        return Counter(re.findall(r"job (\S+): page (\d+) is read", self.log))

    def stored(self) -> dict[tuple[str, int], tuple[Any, ...]]:
        """The pages that are kept, with all that is known of them."""
        path = self.folder / "jobs" / "jobs.sqlite"
        if not path.exists():
            return {}
        with closing(sqlite3.connect(path)) as db:
            return {(row[0], row[1]): row for row in db.execute("SELECT * FROM pages")}


@pytest.fixture
def server(start: Start, tmp_path: Path) -> Server:
    return Server(start, tmp_path)


def submit(url: str, document: bytes, **fields: str) -> str:
    form = {"engine": "builtin", "dpi": "100"} | fields
    answer = httpx.post(f"{url}/ocr/pdf", files={"file": ("book.pdf", document)}, data=form, timeout=WAIT)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def job(url: str, job_id: str) -> dict[str, Any]:
    answer = httpx.get(f"{url}/ocr/{job_id}", timeout=WAIT)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


def wait_until(condition: Callable[[], Any], seconds: float = WAIT) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)
    return found


def ended(url: str, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = wait_until(lambda: (now := job(url, job_id))["status"] in ENDED and now)
    return found


def check_whole(server: Server, url: str, job_id: str, pages: int) -> None:
    """Completed, every page's text once and in order, no page read twice, no document left."""
    result = ended(url, job_id)
    assert result["status"] == "completed", result
    heads = re.findall(r"=== Page (\d+) of (\d+) ===\nPage number (\d+)\nis short\.", result["result"]["text"])
    assert heads == [(str(n), str(pages), str(n)) for n in range(1, pages + 1)]
    wait_until(lambda: not (server.folder / "jobs" / "documents" / job_id).exists())


def check_nothing_twice(server: Server) -> None:
    assert max(server.reads().values()) == 1
    assert "in vain" not in server.log


@pytest.mark.slow
def test_a_job_goes_on_after_kills(server: Server) -> None:
    server.more = {"OCR_MLX_MAX_ROWS": "2"}  # so that there is time to kill it in the middle
    url = server.up()
    job_id = submit(url, small_pdf(PAGES))
    counts = []
    for _ in range(3):
        least = len(server.stored()) + 1
        wait_until(lambda least=least: len(server.stored()) >= least)
        server.down(signal.SIGKILL)
        counts.append(len(server.stored()))
        url = server.up()
    check_whole(server, url, job_id, PAGES)
    assert 0 < counts[0] < counts[1] < counts[2] < PAGES, "killed in the middle each time"
    server.down(signal.SIGTERM)
    assert sum(server.reads().values()) >= PAGES - 3, "a kill can come between storing and telling"
    check_nothing_twice(server)
    begun = [int(pages) for pages in re.findall(r": (\d+) pages to read, from page", server.log)]
    assert begun[0] == PAGES and all(pages < PAGES for pages in begun[1:]), "what was stored is not read again"


@pytest.mark.slow
def test_twenty_kills_at_random_moments(server: Server) -> None:
    """Half of them while the program starts, loads the model or opens the document, half while it stores pages."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    document, url = small_pdf(PAGES), server.up()
    job_ids: list[str] = []
    kept: dict[tuple[str, int], tuple[Any, ...]] = {}
    for number in range(20):
        while len(kept) > PAGES * (len(job_ids) - 2):
            job_ids.append(submit(url, document))
        if number % 2:
            before = len(kept)
            wait_until(lambda before=before: len(server.stored()) > before)
        moment = chance.uniform(0.0, 1.5)
        time.sleep(moment)
        assert server.down(signal.SIGKILL) == -signal.SIGKILL
        now = server.stored()
        assert kept.items() <= now.items(), "what was stored stays as it was"
        print(f"kill {number + 1} after {moment:.2f} s: {len(now) - len(kept)} new pages, {len(now)} in all")
        kept = now
        url = server.up()
    for job_id in job_ids:
        check_whole(server, url, job_id, PAGES)
    server.down(signal.SIGTERM)
    final = server.stored()
    assert kept.items() <= final.items() and len(final) == PAGES * len(job_ids)
    owners = len({row[-1] for row in final.values()})
    print(f"{len(job_ids)} jobs of {PAGES} pages completed by {owners} processes")
    print(f"{len(final)} pages stored, {sum(server.reads().values())} told of as read before the kill")
    check_nothing_twice(server)


@pytest.mark.slow
def test_an_end_that_is_asked_for_keeps_the_job(server: Server) -> None:
    url = server.up()
    job_id = submit(url, small_pdf(PAGES))
    wait_until(lambda: len(server.stored()) >= 4)
    assert server.down(signal.SIGTERM) == 0
    assert 4 <= len(server.stored()) < PAGES
    with closing(sqlite3.connect(server.folder / "jobs" / "jobs.sqlite")) as db:
        assert db.execute("SELECT state, owner, attempts FROM jobs").fetchall() == [("processing", None, 0)]
    assert not list((server.folder / "jobs").glob("*.lock"))
    check_whole(server, server.up(), job_id, PAGES)
    server.down(signal.SIGTERM)
    check_nothing_twice(server)


@pytest.mark.slow
def test_two_servers_on_one_folder(server: Server) -> None:
    """Both read; each job is read by one of them at a time, and the one that lives goes on with the other's."""
    server.more = {"OCR_MLX_JOBS_AT_ONCE": "1"}
    first = server.up()
    second = server.up()
    job_ids = [submit(url, small_pdf(30)) for url in (first, second)]
    wait_until(lambda: len({row[-1] for row in server.stored().values()}) == 2)
    wait_until(lambda: len(server.stored()) > 10)
    server.down(signal.SIGKILL)
    assert len(server.stored()) < 60
    for job_id in job_ids:
        check_whole(server, second, job_id, 30)
    server.down(signal.SIGTERM)
    check_nothing_twice(server)


def test_cancel_in_the_middle_over_either_server(server: Server) -> None:
    server.more = {"OCR_MLX_JOBS_AT_ONCE": "1"}
    first, second = server.up(), server.up()
    job_id = submit(first, small_pdf(PAGES))
    wait_until(lambda: len(server.stored()) >= 2)
    assert httpx.post(f"{second}/ocr/{job_id}/cancel", timeout=WAIT).status_code == 200
    found = job(first, job_id)
    assert found["status"] == "failed" and "cancelled" in found["error"]
    left = len(server.stored())
    assert left < PAGES
    follow_up = submit(first, small_pdf(1))
    assert ended(second, follow_up)["status"] == "completed"
    assert len(server.stored()) == left + 1, "nothing more is read of it"
    wait_until(lambda: not any((server.folder / "jobs" / "documents").iterdir()))
