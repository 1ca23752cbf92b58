"""Asks `/livez` again and again from a process of its own, until standard input ends.

    python scripts/soaking/livez.py http://127.0.0.1:7771 0.05

For every question a line: milliseconds from the first byte sent to the last received, on one connection that stays open, and
how many milliseconds late the question was, which tells a busy machine from a busy server. An answer that did not come, or
was no 200, is `nan`.
"""

from __future__ import annotations

import os
import select
import sys
import time
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

PATIENCE = 30.0


def ask(connection: HTTPConnection) -> float:
    """Milliseconds, nan where there is no answer."""
    started = time.perf_counter()
    try:
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        answer.read()
    except (OSError, HTTPException):
        connection.close()
        return float("nan")
    return (time.perf_counter() - started) * 1e3 if answer.status == 200 else float("nan")


def main() -> int:
    """Ask until nobody wants to know any more."""
    parts, every = urlsplit(sys.argv[1]), float(sys.argv[2])
    connection = HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE)
    due = time.perf_counter()
    try:
        while not select.select([sys.stdin], [], [], max(0.0, due - time.perf_counter()))[0]:
            late = (time.perf_counter() - due) * 1e3
            sys.stdout.write(f"{ask(connection):.3f} {late:.3f}\n")
            sys.stdout.flush()
            due = max(due + every, time.perf_counter())
    except BrokenPipeError:  # who asked was killed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
