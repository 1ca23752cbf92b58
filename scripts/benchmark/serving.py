"""The real server under load: a process of its own, and clients that talk HTTP to it."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
BUILTIN = "builtin"
CLIENTS = 8
PAUSE = 16
"""Tokens of the short wave: all rows have joined by then, so what lies between two waves is decoding alone."""
WORDS = "harbour lights shine over quiet water while the last boats return to shore this evening again".split()
_WAIT = 600.0


class Server:
    """`python -m ocr_mlx.endpoint` on a free port, with a page cache of nothing unless told otherwise.

    `settings` are environment variables without their prefix. A context: leaving it ends the server.
    """

    def __init__(self, **settings: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        given = {
            "STATE_DIR": self._folder.name,
            "KEEP_ALIVE": "-1",
            "LOG_LEVEL": "error",
            "PAGE_CACHE_MB": "0",
        } | settings
        environment = os.environ | {f"OCR_MLX_{name}": value for name, value in given.items()}
        environment["PYTHONPATH"] = str(ROOT / "src")
        command = [sys.executable, "-m", "ocr_mlx.endpoint", "--port", "0"]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with status {self._process.wait()}")
        self.address: str = json.loads(line)["url"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()


class Client:
    """One connection that stays open."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=_WAIT)

    def post(self, path: str, body: bytes) -> bytes:
        """The answer's body. Raises RuntimeError for any status but 200."""
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {text[:500]!r}")
        return text

    def tokens(self, body: bytes) -> int:
        """Read a page by a chat request; how many tokens the model said for it."""
        return int(json.loads(self.post("/v1/chat/completions", body))["usage"]["completion_tokens"])

    def close(self) -> None:
        """Hang up; the server ends what is still being read."""
        self._connection.close()


def data_uri(image: Any) -> str:
    """A picture as a PNG inside an address."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def text_page(seed: int, lines: int = 10) -> Any:
    """Lines of printed text, different for every seed."""
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.load_default(22)
    page = Image.new("L", (640, 60 + 36 * lines), 255)
    for row in range(lines):
        text = " ".join(WORDS[(seed * 5 + row * 3 + i) % len(WORDS)] for i in range(7))
        ImageDraw.Draw(page).text((30, 30 + 36 * row), text, fill=0, font=face)
    return page


def blank_page() -> Any:
    """Nothing but white."""
    from PIL import Image

    return Image.new("L", (640, 420), 255)


def chat(image: Any, model: str, tokens: int, seed: int, random: bool) -> bytes:
    """A chat request. `random` samples, so that a model with random weights says all its tokens and never loops."""
    content = [{"type": "image_url", "image_url": {"url": data_uri(image)}}]
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": tokens}
    return json.dumps(body | ({"temperature": 1.0, "seed": seed} if random else {})).encode()


def wave(address: str, bodies: list[bytes]) -> tuple[int, float]:
    """All requests at once, each from a client of its own: their tokens, and the seconds until the last answer."""
    ready = threading.Barrier(len(bodies) + 1)

    def ask(body: bytes) -> int:
        client = Client(address)
        ready.wait()
        try:
            return client.tokens(body)
        finally:
            client.close()

    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = [pool.submit(ask, body) for body in bodies]
        ready.wait()
        started = time.perf_counter()
        tokens = sum(answer.result() for answer in answers)
        return tokens, time.perf_counter() - started


def crowd(model: str, tokens: int, clients: int = CLIENTS) -> dict[str, Any]:
    """Tokens a second of `clients` concurrent requests: a batch as the server makes it, and a batch of one.

    `decoding` is between a short wave and a long one of the same pages, so that reading pictures drops out of it.
    """
    return {
        "model": "builtin" if model == BUILTIN else "nougat-small size",
        "clients": clients,
        "tokens": tokens,
        "batch": _waves(model, tokens, clients, {}),
        "one": _waves(model, tokens, clients, {"MAX_ROWS": "1"}),
    }


def _waves(model: str, tokens: int, clients: int, settings: dict[str, str]) -> dict[str, float]:
    random = model != BUILTIN
    made = pages(model, clients)

    def bodies(count: int) -> list[bytes]:
        return [chat(page, model, count, seed, random) for seed, page in enumerate(made)]

    with Server(MODEL=model, **settings) as server:
        wave(server.address, bodies(1)[:1])
        said, seconds = wave(server.address, bodies(tokens))
        found = {"tokens": said, "seconds": seconds, "whole": said / seconds}
        if random:
            few, short = wave(server.address, bodies(PAUSE))
            found["decoding"] = (said - few) / (seconds - short)
    return found


def pages(model: str, count: int) -> list[Any]:
    """What the clients send: text for a model that reads, grey lines for one with random weights."""
    from scripts.benchmark.common import picture

    return [text_page(seed) if model == BUILTIN else picture(seed) for seed in range(count)]
