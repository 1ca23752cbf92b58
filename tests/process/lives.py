"""Processes that are watched, and documents and models that keep a server busy for longer than any test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from tests.process.program import WAIT, Program

PARENT = """
import os, subprocess, sys
command = [word.replace("MY-PID", str(os.getpid())) for word in sys.argv[1:]]
subprocess.Popen(command, stdin=subprocess.PIPE)
sys.stdin.read()
"""
"""An app: it starts a server, whose standard input it holds, and waits."""

BUSY = """
import sys, time
import mlx.core as mx
from ocr_mlx.endpoint import main
from ocr_mlx.inference import batch
from ocr_mlx.model import load
from ocr_mlx.server import guard

def told():
    print("BUSY", file=sys.stderr, flush=True)

def hangs(*_arguments, **_options):
    told()
    time.sleep(300)

def computes(*_arguments):
    told()
    wide = mx.ones((1500, 1500))
    for _ in range(20000):
        wide = wide @ wide
    mx.eval(wide)

doing = sys.argv.pop(1)
if doing == "loads":
    load.load_model = hangs
elif doing == "answers":
    guard._ambiguous = hangs
else:
    batch.DecodeBatch.join = computes
sys.exit(main(sys.argv[1:]))
"""
"""A server that hangs while it loads a model or in its event loop, or computes for minutes."""

ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def endless_pdf() -> bytes:
    """One page, which a gradient fills a hundred thousand times: minutes, and little memory."""
    fills = "/S sh " * 100_000
    shading = (
        "/ShadingType 2 /ColorSpace /DeviceRGB /Coords [0 0 600 800] /Extend [true true] "
        "/Function << /FunctionType 2 /Domain [0 1] /C0 [1 0 0] /C1 [0 0 1] /N 2 >>"
    )
    return _file(
        (
            "<< /Type /Catalog /Pages 2 0 R >>",
            "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R "
            f"/Resources << /Shading << /S << {shading} >> >> >> >>",
            f"<< /Length {len(fills)} >>\nstream\n{fills}\nendstream",
        )
    )


def _file(objects: Iterable[str]) -> bytes:
    out, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(places) + 1
    return (
        out
        + f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer << /Size {size} /Root 1 0 R >>\n".encode()
        + (f"startxref\n{len(out)}\n%%EOF\n".encode())
    )


def app(folder: Path, *arguments: str, code: str = "", **environ: str) -> Program:
    """A server as the child of an app, which is the program's process; MY-PID stands for the app's id."""
    server = (sys.executable, *(("-c", code) if code else ("-m", "ocr_mlx.endpoint")), *arguments)
    return Program([sys.executable, "-c", PARENT, *server], folder, environ, stdin=subprocess.PIPE)


def family(pid: int) -> list[psutil.Process]:
    """The process and all its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still live after that time; returns early when none does."""
    end = time.monotonic() + seconds
    remaining = [*processes]
    while remaining and time.monotonic() < end:
        time.sleep(0.02)
        remaining = [process for process in remaining if lives(process)]
    return remaining


def until(condition: Callable[[], Any], seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def works(pid: int) -> bool:
    """Whether a child of the process has computed for longer than starting takes."""
    found = psutil.Process(pid).children(recursive=True)
    return any(times.user > 0.6 for times in map(psutil.Process.cpu_times, found))


def kill(processes: Iterable[psutil.Process]) -> None:
    """What a failed test left behind."""
    for process in processes:
        if lives(process):
            os.kill(process.pid, 9)
