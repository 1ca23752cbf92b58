"""A Redis of the test's own, a proxy before it that can be cut, and documents whose pages can be told apart."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from PIL import Image, ImageDraw, ImageFont


class RedisServer:
    """redis-server with an append-only file, on a port that stays the same when it is started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        options += ["--appendonly", "yes", "--save", "", "--daemonize", "no"]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        with redis.Redis(port=self.port) as client:
            eventually(lambda: answers(client), 10)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """It takes connections and answers nothing any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian's package `redis-server`)")
    server = RedisServer(tmp_path / "redis")
    yield server
    server.kill()


class Proxy:
    """TCP between a worker and Redis, that the test can cut and mend."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        self._is_cut = True
        for one in tuple(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            self._open |= {near, far}
            left = [2]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other, left), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        left[0] -= 1
        if not left[0]:
            for end in (one, other):
                self._open.discard(end)
                end.close()


def eventually(holds: Callable[[], bool], seconds: float, *, every: float = 0.05) -> None:
    """Wait until it holds; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "not in time"
        time.sleep(every)


WORDS = "Harbour lights shine over quiet water while the last boats return to shore this evening again".split()


def line(number: int) -> str:
    """What page `number` (from 1) says first."""
    return f"Page number {number} of the report"


def document(pages: int, lines: int = 4) -> bytes:
    """A PDF of small pages with a few short lines each."""
    made = [_page(number, lines) for number in range(1, pages + 1)]
    out = io.BytesIO()
    made[0].save(out, "PDF", save_all=True, append_images=made[1:], resolution=100)
    return out.getvalue()


def _page(number: int, lines: int) -> Image.Image:
    image = Image.new("L", (520, 40 + 34 * lines), 255)
    draw, face = ImageDraw.Draw(image), ImageFont.load_default(22)
    for row in range(lines):
        text = line(number) if row == 0 else " ".join(WORDS[(number + row + i) % len(WORDS)] for i in range(5))
        draw.text((20, 20 + 34 * row), text, fill=0, font=face)
    return image
