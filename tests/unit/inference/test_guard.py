from __future__ import annotations

from ocr_mlx.inference.guard import MIN_TOKENS, loop_start


def test_short_runs_pass() -> None:
    assert loop_start([7] * (MIN_TOKENS - 1)) is None
    assert loop_start(list(range(100)) * 5) is None


def test_a_run_that_has_ended_passes() -> None:
    assert loop_start([7] * 500 + [8]) is None


def test_ordinary_text_passes() -> None:
    assert loop_start([(i * i * 31 + i // 3) % 997 for i in range(3000)]) is None
