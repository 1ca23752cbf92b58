"""Whether `/livez` answers at once while the server reads pages as fast as it can.

    python scripts/bench_server.py [--seconds 30] [--clients 8] [--every 20] [--model builtin]
    python scripts/bench_server.py --model FOLDER           a checkpoint with random weights, as scripts/bench.py makes it

Starts the real server; `--clients` threads send it one page after the other by HTTP. A process of its own asks `/livez` on a
new connection every so many milliseconds. It measures from connecting to the last byte, and how late it woke up itself: on
a machine whose cores are all busy that is what any other program sees too.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(REPO), str(REPO / "src")) if path not in sys.path]

IDLE = 2.0
"""Seconds of asking before the load begins."""


def poll(address: str, seconds: float, every: float) -> dict[str, Any]:
    """Ask `/livez` at fixed times; milliseconds of each answer, and how late each question was."""
    parts = urlsplit(address)
    where = str(parts.hostname), int(parts.port or 80)
    question = f"GET /livez HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode()
    begun, answers, late = time.perf_counter(), [], []
    due = begun
    while due < begun + seconds:
        time.sleep(max(0.0, due - time.perf_counter()))
        started = time.perf_counter()
        _ask(where, question)
        answers.append((time.perf_counter() - started) * 1e3)
        late.append((started - due) * 1e3)
        due = max(due + every, time.perf_counter())
    return {"answers": answers, "late": late}


def _ask(where: tuple[str, int], question: bytes) -> None:
    with socket.create_connection(where, timeout=60) as connection:
        connection.sendall(question)
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    if b" 200 " not in answer.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"/livez answered {answer[:80]!r}")


def measure(model: str, *, seconds: float, clients: int, every: float, idle: float = IDLE) -> dict[str, Any]:
    """Milliseconds of `/livez` without work and under load, and the pages that were read meanwhile."""
    from scripts.benchmark.serving import Client, Server, wave

    bodies = [_body(model, seed) for seed in range(clients)]
    over, count = threading.Event(), []
    with Server(MODEL=model) as server:

        def read(body: bytes) -> None:
            with closing(Client(server.address)) as client:
                while not over.is_set():
                    try:
                        count.append(client.tokens(body))
                    except (OSError, HTTPException, RuntimeError):  # the server has ended, as it must
                        if not over.is_set():
                            raise

        wave(server.address, bodies[:1])
        before = _polled(server.address, idle, every)
        threads = [threading.Thread(target=read, args=(body,), daemon=True) for body in bodies]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        loaded = _polled(server.address, seconds, every)
        taken = time.perf_counter() - started
        over.set()
    for thread in threads:
        thread.join(30)
    return {
        "idle": before,
        "load": loaded,
        "clients": clients,
        "pages": len(count),
        "pages_per_second": len(count) / taken,
    }


def _body(model: str, seed: int) -> bytes:
    from scripts.benchmark.serving import BUILTIN, chat, pages

    return chat(pages(model, seed + 1)[seed], model, 100, seed, model != BUILTIN)


def _polled(address: str, seconds: float, every: float) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__)), "--poll", address, "--seconds", str(seconds), "--every", str(every)]
    found = json.loads(subprocess.check_output(command, text=True))
    answers, late = sorted(found["answers"]), sorted(found["late"])
    return {
        "count": len(answers),
        "p50_ms": _share(answers, 0.5),
        "p99_ms": _share(answers, 0.99),
        "max_ms": answers[-1],
        "late_p99_ms": _share(late, 0.99),
    }


def _share(ordered: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(found: dict[str, Any]) -> str:
    """A table."""
    lines = ["| /livez | answers | p50 ms | p99 ms | max ms | asked late, p99 ms |", "|---|---|---|---|---|---|"]
    for name in ("idle", "load"):
        one = found[name]
        cells = [f"{one[key]:.1f}" for key in ("p50_ms", "p99_ms", "max_ms", "late_p99_ms")]
        lines.append(f"| {name} | {one['count']} | {' | '.join(cells)} |")
    return (
        "\n".join(lines)
        + f"\n\n{found['clients']} clients, {found['pages']} pages, {found['pages_per_second']:.2f} pages/s"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin", help="`builtin`, or a folder whose weights are random")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--every", type=float, default=20.0, help="milliseconds between two questions")
    parser.add_argument("--json", action="store_true", help="figures instead of a table")
    parser.add_argument("--poll", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.poll:
        print(json.dumps(poll(options.poll, options.seconds, options.every / 1e3)))
        return 0
    found = measure(options.model, seconds=options.seconds, clients=options.clients, every=options.every)
    print(json.dumps(found) if options.json else report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
