from __future__ import annotations

import os
import subprocess
import sys
import threading

from ocr_mlx.utils import watch


def test_a_process_that_ends_is_noticed_even_before_it_is_reaped() -> None:
    gone = threading.Event()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        watch.parent(process.pid, gone.set, interval=0.01)
        assert not gone.is_set()
        process.kill()
        assert gone.wait(10)


def test_a_process_that_never_was() -> None:
    gone = threading.Event()
    watch.parent(2**22 + 1, gone.set)
    assert gone.wait(10)


def test_the_end_of_a_stream_is_noticed_and_what_comes_before_is_dropped() -> None:
    gone = threading.Event()
    read, write = os.pipe()
    watch.stream(read, gone.set)
    os.write(write, b"something")
    assert not gone.is_set()
    os.close(write)
    assert gone.wait(10)
    os.close(read)
