"""What the server adds to a request: the same document over HTTP and by the same engine in this process, in turn.

The difference of each pair leaves the model out. A blank page never comes to the model, so its difference has no noise from
there; the page of one line is read and answered with text.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from typing import Any

from scripts.benchmark.serving import BUILTIN, Client, Server, blank_page, data_uri, text_page

_SETTINGS = {"MODEL": BUILTIN, "KEEP_ALIVE": "-1", "LOG_LEVEL": "error"}


def measure(pairs: int) -> dict[str, Any]:
    """Milliseconds, medians of `pairs`: of a blank page, of one line of text, and of one that the page cache answers."""
    documents = {"blank": data_uri(blank_page()), "line": data_uri(text_page(1, lines=1))}
    found: dict[str, Any] = {"pairs": pairs}
    with _Here() as here, Server(**_SETTINGS) as server:
        there = Client(server.address)
        for name, document in documents.items():
            found[name] = _paired(here, there, document, pairs)
        there.close()
    with Server(**_SETTINGS, PAGE_CACHE_MB="16") as server:
        there = Client(server.address)
        body = _body(documents["line"])
        times = [_clocked(lambda: there.post("/ocr", body)) for _ in range(pairs + 1)]
        found["cached"] = {"http_ms": statistics.median(times[1:])}
        there.close()
    return found


class _Here:
    """The same engine without a server."""

    def __enter__(self) -> _Here:
        from ocr_mlx.engine.build import build_service
        from ocr_mlx.settings import Settings

        given = {f"OCR_MLX_{name}": value for name, value in (_SETTINGS | {"PAGE_CACHE_MB": "0"}).items()}
        self._service = build_service(Settings.from_env(os.environ | given).engine_options())
        return self

    def read(self, document: str) -> None:
        """What the route asks the engine for, the address taken apart as there."""
        from ocr_mlx.domain import OcrRequest
        from ocr_mlx.pages.source import parse_source

        self._service.run(OcrRequest(source=parse_source(document), model=BUILTIN))

    def __exit__(self, *_: object) -> None:
        self._service.close()


def _paired(here: _Here, there: Client, document: str, pairs: int) -> dict[str, float]:
    body = _body(document)
    times = [
        (_clocked(lambda: there.post("/ocr", body)), _clocked(lambda: here.read(document))) for _ in range(pairs + 2)
    ][2:]
    return {
        "http_ms": statistics.median(pair[0] for pair in times),
        "engine_ms": statistics.median(pair[1] for pair in times),
        "overhead_ms": statistics.median(over - under for over, under in times),
    }


def _body(document: str) -> bytes:
    return json.dumps({"filename": document, "model": BUILTIN}).encode()


def _clocked(function: Any) -> float:
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) * 1e3
