from __future__ import annotations

import mlx.core as mx
import pytest

from ocr_mlx.engine import memory
from ocr_mlx.engine.memory import give_back, held_bytes

MB = 10**6


def test_what_is_held_is_measured_and_given_back() -> None:
    give_back()
    before = held_bytes()
    weights = mx.ones((4000, 4000)) + mx.zeros((4000, 1))
    mx.eval(weights)
    assert held_bytes() - before > 60 * MB
    del weights
    give_back()
    assert held_bytes() - before < 20 * MB


def test_a_device_with_memory_of_its_own_is_counted_too() -> None:
    assert memory._device_bytes() == 0 or mx.default_device() != mx.cpu
    assert memory._footprint() >= 0


@pytest.mark.slow
def test_graphs_that_are_built_again_and_again_leave_nothing_behind() -> None:
    """Each draws first weights that are never evaluated; the random state must not keep them all."""

    def build() -> None:
        [mx.random.normal((2,)) for _ in range(300)]
        give_back()

    for _ in range(3):
        build()
    before = held_bytes()
    for _ in range(10):
        build()
    assert held_bytes() - before < 2 * MB
