"""Ctrl-C is put off to the end of what it must not tear apart."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from ocr_mlx.cli.progress import Terminal
from ocr_mlx.cli.unbroken import unbroken


@pytest.fixture(autouse=True)
def handler_stays() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_it_waits_for_the_end_of_the_block() -> None:
    seen = []
    with pytest.raises(KeyboardInterrupt), unbroken():
        ctrl_c()
        seen.append("whole")
    assert seen == ["whole"]


def test_blocks_inside_blocks() -> None:
    seen = []
    with pytest.raises(KeyboardInterrupt), unbroken():
        with unbroken():
            ctrl_c()
            seen.append("inner")
        seen.append("outer")
    assert seen == ["inner", "outer"]


def test_a_second_one_is_taken_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), unbroken():
        ctrl_c()
        ctrl_c()
        pytest.fail("it went on")


def test_an_error_in_the_block_does_not_lose_it() -> None:
    with pytest.raises(KeyboardInterrupt) as interrupted, unbroken():
        ctrl_c()
        raise ValueError
    assert isinstance(interrupted.value.__context__, ValueError)


def test_where_it_is_ignored_it_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with unbroken():
            ctrl_c()
            ctrl_c()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_may_use_it() -> None:
    seen = []

    def work() -> None:
        with unbroken():
            seen.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert seen == [1]


def test_the_display_is_never_left_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    console, shown = terminal._console, terminal._console.set_live
    monkeypatch.setattr(console, "set_live", lambda live: ctrl_c() or shown(live))
    with pytest.raises(KeyboardInterrupt):
        terminal.start()
    terminal.stop()
