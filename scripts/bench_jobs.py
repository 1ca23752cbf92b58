"""Pages a second of jobs in Redis with 1, 2 and 3 workers on this machine, read by the built-in model.

    python scripts/bench_jobs.py [--pages 48] [--workers 1,2,3] [--repeat 2]

Starts a redis-server (append-only file, as in production) and real `ocr_mlx worker`s. Each worker gets its share of the
cores (OMP_NUM_THREADS, OPENBLAS_NUM_THREADS = cores / workers, at least 1). One small job warms the workers up; the table
has the best of the timed ones, from the moment the job is kept to that of its last page.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ocr_mlx.jobs.records import JobRequest, JobState, new_job
from ocr_mlx.jobs.redis.queue import KEY, Queue
from ocr_mlx.jobs.redis.store import RedisStore
from ocr_mlx.jobs.redis.units import Units

WORDS = "harbour lights shine over quiet water while the last boats return to shore this evening again".split()
LINES = 12


def document(pages: int) -> bytes:
    """A PDF of small pages, each with a dozen lines of its own."""
    face = ImageFont.load_default(22)
    made = []
    for number in range(pages):
        made.append(Image.new("L", (560, 40 + 34 * LINES), 255))
        for row in range(LINES):
            text = " ".join(WORDS[(number + row * 3 + i) % len(WORDS)] for i in range(6))
            ImageDraw.Draw(made[-1]).text((20, 20 + 34 * row), text, fill=0, font=face)
    out = io.BytesIO()
    made[0].save(out, "PDF", save_all=True, append_images=made[1:], resolution=100)
    return out.getvalue()


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis of its own; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes", "--save", ""]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def workers(count: int, threads: int, url: str) -> Iterator[None]:
    """So many workers, ready to read."""
    share = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    settings = {"OCR_MLX_REDIS_URL": url, "OCR_MLX_KEEP_ALIVE": "-1", "OCR_MLX_LOG_LEVEL": "error"}
    settings["OCR_MLX_PAGE_CACHE_MB"] = "0"  # the same pages come again
    command = [sys.executable, "-m", "ocr_mlx", "worker"]
    started = [
        subprocess.Popen(command, env=os.environ | share | settings, stdout=subprocess.PIPE) for _ in range(count)
    ]
    try:
        for one in started:
            assert one.stdout is not None
            assert json.loads(one.stdout.readline())["event"] == "ready"
        yield
    finally:
        for one in started:
            one.terminate()
        for one in started:
            one.communicate(timeout=30)


class Jobs:
    """Puts jobs into Redis as a server does, and waits for them."""

    def __init__(self, url: str) -> None:
        self._store = RedisStore(url)
        self._queue = Queue(url, lambda job_id, number: None)
        self._units = Units(self._store, queue=KEY)

    def read(self, data: bytes, pages: int) -> float:
        """The seconds that a document took."""
        job = new_job(
            kind="pdf",
            filename="bench.pdf",
            engine="builtin",
            request=JobRequest(model="builtin"),
            pages=tuple(range(pages)),
        )
        began = time.perf_counter()
        self._store.add(job, data)
        for unit in self._units.cut(job.id):
            self._units.sent(unit, self._queue.send(unit))
        while not self._store.get(job.id).state.final:
            time.sleep(0.02)
        took = time.perf_counter() - began
        if self._store.get(job.id).state is not JobState.COMPLETED:
            raise SystemExit(f"the job failed: {self._store.get(job.id).error}")
        return took

    def close(self) -> None:
        """Let go."""
        self._queue.close()
        self._store.close()


def measure(count: int, threads: int, data: bytes, pages: int, repeat: int) -> float:
    """Pages a second with so many workers."""
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as url, workers(count, threads, url):
        jobs = Jobs(url)
        try:
            jobs.read(document(8 * count), 8 * count)
            return pages / min(jobs.read(data, pages) for _ in range(repeat))
        finally:
            jobs.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pages", type=int, default=48)
    parser.add_argument("--workers", default="1,2,3")
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    if shutil.which("redis-server") is None:
        raise SystemExit("redis-server is not installed (Debian's package `redis-server`)")
    cores, data, first = len(os.sched_getaffinity(0)), document(options.pages), 0.0
    print(f"{options.pages} pages of {LINES} short lines, {cores} cores, built-in model\n")
    print("| workers | threads each | pages/s | against the first |\n|---|---|---|---|")
    for count in map(int, options.workers.split(",")):
        threads = max(1, cores // count)
        rate = measure(count, threads, data, options.pages, options.repeat)
        first = first or rate
        print(f"| {count} | {threads} | {rate:.1f} | {rate / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
