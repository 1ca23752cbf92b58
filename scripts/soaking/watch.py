"""What a running server takes, looked at from outside: memory, threads, descriptors, and how soon `/livez` answers."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

ROOT = Path(__file__).resolve().parents[2]
_END_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One look. `at` in seconds since the watch began; memory in bytes, `largest` is that of the largest child."""

    at: float
    server: int
    children: int
    largest: int
    processes: int
    threads: int
    descriptors: int


def look(process: psutil.Process, at: float = 0.0) -> Sample:
    """Raises psutil.NoSuchProcess when the server has gone."""
    children = [size for child in process.children(recursive=True) if (size := _resident(child))]
    with process.oneshot():
        return Sample(
            at=at,
            server=process.memory_info().rss,
            children=sum(children),
            largest=max(children, default=0),
            processes=len(children),
            threads=process.num_threads(),
            descriptors=process.num_fds(),
        )


def _resident(process: psutil.Process) -> int:
    """0 for one that has just ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


class Watch:
    """Looks every so many seconds from a thread of its own. A context."""

    def __init__(self, pid: int, *, every: float) -> None:
        self.samples: list[Sample] = []
        self.process = psutil.Process(pid)
        self._every = every
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def now(self) -> Sample:
        """One look more, which is not kept."""
        return look(self.process, time.monotonic() - self._began)

    @property
    def seconds(self) -> float:
        """Since the watch began."""
        return time.monotonic() - self._began

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            try:
                self.samples.append(self.now())
            except psutil.Error:
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()


class Livez:
    """Asks `/livez` from another process, so that nothing that happens here delays a question. A context."""

    def __init__(self, url: str, *, every: float) -> None:
        """`every` in seconds."""
        self.answers: list[float] = []
        """Milliseconds, nan for no answer."""
        self.late: list[float] = []
        """Milliseconds that each question was late, which is the machine's doing."""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("livez.py")), url, str(every)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._take, name="livez", daemon=True)

    def _take(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer, late = line.split()
            self.answers.append(float(answer))
            self.late.append(float(late))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        self._process.stdout.close()


def share(values: Sequence[float], part: float) -> float:
    """The value that this part of them does not exceed, unanswered ones left out; nan without any."""
    ordered = sorted(value for value in values if not math.isnan(value))
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else math.nan
