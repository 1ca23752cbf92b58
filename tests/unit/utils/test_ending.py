from __future__ import annotations

import signal
import subprocess
import sys

import pytest

ENDS = """
import signal, sys, time
from ocr_mlx.utils.ending import Ending
ending = Ending()
ending.last_act = lambda: print("last act", flush=True)
ending.catch_signals()
told = []
ending.start = lambda: told.append(ending.reason)
"""


def ran(code: str, *, before: str = "") -> tuple[int, str]:
    program = f"{before}\n{ENDS}\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_ends_it_at_once(number: signal.Signals) -> None:
    code = f"signal.raise_signal({number:d}); print(told, flush=True); signal.raise_signal({number:d}); print('alive')"
    assert ran(code) == (128 + number, f"['{number.name}']\nlast act\n")


def test_only_a_second_signal_ends_it_at_once_whatever_else_was_said_before() -> None:
    code = (
        "ending.begin('/shutdown'); ending.begin('again'); signal.raise_signal(15); print(told, flush=True); "
        "signal.raise_signal(15)"
    )
    assert ran(code) == (143, "['/shutdown']\nlast act\n")


def test_a_terminal_that_closes_is_ignored_where_the_parent_wants_that() -> None:
    code = "signal.raise_signal(signal.SIGHUP); print(told)"
    assert ran(code, before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)") == (0, "[]\n")


def test_a_signal_before_there_is_anything_to_end() -> None:
    code = (
        "from ocr_mlx.utils import ending as module; ending.start = module._go; signal.raise_signal(15); print('alive')"
    )
    assert ran(code) == (0, "")


def test_the_deadline_holds_whatever_the_main_thread_does() -> None:
    assert ran("ending.within(0.05); time.sleep(20)") == (0, "last act\n")


def test_it_ends_even_where_the_last_act_fails() -> None:
    code = "ending.last_act = lambda: 1 / 0; ending.within(0.05); time.sleep(20)"
    assert ran(code) == (0, "")
