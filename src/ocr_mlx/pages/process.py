"""One page process as its parent sees it: started when it is first needed, ended when it hangs, grows or crashes.

The processes that open users' documents get no token and no setting: their environment holds only what Python itself needs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Final

from ocr_mlx.pages.frames import Frame, read_frame, write_frame

_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.25
"""Between two looks at how much memory a process holds while it works."""
_PIPE_BYTES: Final = 1 << 20
_KEPT: Final = (
    "PYTHONHOME",
    "PYTHONUSERBASE",
    "PYTHONPLATLIBDIR",
    "PYTHONPYCACHEPREFIX",
    "PYTHONDONTWRITEBYTECODE",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
)
_GIVEN: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
"""Threads and their arenas would use up the address space that a process is allowed."""


class Gone(Exception):
    """A process ended in the middle of a request; `hung` where it was ended for taking too long."""

    def __init__(self, *, hung: bool) -> None:
        super().__init__(hung)
        self.hung = hung


def page_command(memory: int, python: Sequence[str] = ()) -> tuple[str, ...]:
    """How a page process is started; tests put another program in its place."""
    # -P: a module of the user's working folder must never be imported in place of the standard library's.
    start = tuple(python) or (sys.executable, "-P", "-m", "ocr_mlx.pages.child")
    return (*start, str(memory), str(os.getpid()))


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What of the environment a page process gets: where Python and its libraries are, and nothing else."""
    kept = {name: inherited[name] for name in _KEPT if name in inherited}
    if folders := inherited.get("PYTHONPATH"):
        kept["PYTHONPATH"] = os.pathsep.join(os.path.abspath(folder) for folder in folders.split(os.pathsep) if folder)
    return kept | _GIVEN


def launch(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a process with pipes, away from the terminal, the working folder and the environment. Raises OSError."""
    process = subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C at the terminal is the parent's to handle
        cwd="/",
        env=environment(os.environ),
    )
    # Linux alone can do this: a page then takes some dozen changes between the processes, not hundreds.
    with contextlib.suppress(AttributeError, OSError):
        fcntl.fcntl(_pipes(process)[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return process


class PageProcess:
    """A page process, running or not. Whoever asks must have it alone; `kill` may come from any thread."""

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]], memory: int) -> None:
        """`start` starts it; it is ended when it holds more than `memory` bytes."""
        self.documents: dict[int, int] = {}
        """id -> bytes, for the documents that are open in it, the least recently used first"""
        self.opened = 0
        """Documents that were opened since it started."""
        self.unwanted: set[int] = set()
        """Documents that are closed and may still be open in it."""
        self._start = start
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs. Raises Gone or OSError."""
        if self.running:
            return
        self.stop()
        process = self._process = self._start()
        if self._killed:  # while it was only starting
            process.kill()
        _, answers = _pipes(process)
        self._watched(process, _START_SECONDS, lambda: read_frame(answers, 0))

    def ask(self, seconds: float, header: Mapping[str, Any], body: bytes = b"", *, most: int = 0) -> Frame:
        """Send a request, wait for its answer. Gone where none of at most `most` bytes comes within `seconds`."""
        if (process := self._process) is None:
            raise Gone(hung=False)
        requests, answers = _pipes(process)

        def exchange() -> Frame | None:
            write_frame(requests, {**header, "seconds": seconds}, (body,), len(body))
            return read_frame(answers, most)

        return self._watched(process, seconds, exchange)

    def drop(self, document: int, seconds: float) -> None:
        """Close a document in it. A crash in closing ends the process and is nobody's error."""
        if self.documents.pop(document, None) is not None:
            with contextlib.suppress(Gone, RuntimeError, MemoryError):  # no thread can be started: it has been ended
                self.ask(seconds, {"op": "close", "document": document})

    def stop(self) -> None:
        """End it, if it runs, and wait until it is gone. It can be started again."""
        process, self._process = self._process, None
        self.documents.clear()
        self.opened = 0
        if process is not None:
            _end(process)

    def kill(self) -> None:
        """End it for good, from another thread, in the middle of whatever it does; `stop` must follow."""
        self._killed = True
        if (process := self._process) is not None:
            process.kill()

    def _watched(self, process: subprocess.Popen[bytes], seconds: float, step: Callable[[], Frame | None]) -> Frame:
        """What `step` gives. Where it gives nothing, the process is ended: an answer that comes late would be taken
        for that to the next question."""
        watch = _Watch(process, seconds, self._memory)
        answer = None
        try:
            with watch, contextlib.suppress(OSError):  # nobody reads any more
                answer = step()
        finally:
            if answer is None or watch.ended:
                process.kill()
                self.stop()
        if answer is None or watch.ended:
            raise Gone(hung=watch.hung)
        return answer


class _Watch:
    """Ends a process that takes longer than `seconds` or holds more than `memory` bytes while a `with` lasts."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float, memory: int) -> None:
        self.hung = self.ended = False
        self._process = process
        self._deadline = time.monotonic() + seconds
        self._memory = memory
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ocr-page-watch", daemon=True)

    def _run(self) -> None:
        while not self._done.wait(max(0.0, min(_LOOK_SECONDS, self._deadline - time.monotonic()))):
            self.hung = time.monotonic() >= self._deadline
            self.ended = self.hung or _held(self._process.pid) > self._memory
            if self.ended:
                self._process.kill()
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _held(pid: int) -> int:
    """Bytes in memory. Where the system limits the address space itself, they are never too many."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both are pipes")
    return process.stdin, process.stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    requests, answers = _pipes(process)
    with contextlib.suppress(OSError):  # what was left to write has no reader any more
        requests.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    answers.close()
