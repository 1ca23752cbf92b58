from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import psutil
import pytest

from ocr_mlx.utils import watch

ALONE = """
import os, threading
from ocr_mlx.utils import watch
gone = threading.Event()
watch.parent(PARENT or os.getppid(), gone.set, interval=0.01)
print("watching", gone.wait(0.1), flush=True)
print("gone", gone.wait(10), flush=True)
"""


def test_a_process_that_ends_is_noticed_even_before_it_is_reaped() -> None:
    gone = threading.Event()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        watch.parent(process.pid, gone.set, interval=0.01)
        assert not gone.wait(0.1)
        process.kill()
        assert gone.wait(10)


def test_the_own_parent_is_noticed_whoever_it_is() -> None:
    """Nothing but the kernel's word: what cannot be looked at (another user's, a sandbox) is noticed as well."""
    code = ALONE.replace("PARENT or ", "").replace("import os,", "import sys; sys.modules['psutil'] = None\nimport os,")
    starts = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {code!r}]); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", starts], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"watching False\n"
        parent.kill()
        assert parent.stdout.readline() == b"gone True\n"


def test_a_process_that_never_was() -> None:
    for pid in (2**22 + 1, 999_999_999):
        gone = threading.Event()
        watch.parent(pid, gone.set)
        assert gone.wait(10)


def test_another_process_with_its_id_is_not_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gone, same = threading.Event(), threading.Event()
    same.set()
    monkeypatch.setattr(psutil.Process, "is_running", lambda _self: same.is_set())  # compares when it began
    watch.parent(1, gone.set, interval=0.01)
    assert not gone.wait(0.1)
    same.clear()
    assert gone.wait(10)


def test_a_process_that_may_not_be_looked_at_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Any) -> str:
        raise psutil.AccessDenied(1)

    gone = threading.Event()
    monkeypatch.setattr(psutil.Process, "status", refuse)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        watch.parent(process.pid, gone.set, interval=0.01)
        assert not gone.wait(0.1)
        process.kill()
    assert gone.wait(10)


@pytest.mark.parametrize("blocks", [True, False])
def test_the_end_of_a_stream_is_noticed_and_what_comes_before_is_dropped(blocks: bool) -> None:
    gone = threading.Event()
    read, write = os.pipe()
    os.set_blocking(read, blocks)
    watch.stream(read, gone.set)
    os.write(write, b"something")
    assert not gone.wait(0.05)
    os.close(write)
    assert gone.wait(10)
    os.close(read)
