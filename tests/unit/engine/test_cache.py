from __future__ import annotations

import threading

import pytest

from ocr_mlx.domain import ModelProgress
from ocr_mlx.engine.cache import ModelCache
from ocr_mlx.errors import Cancelled, UnknownModel
from tests.unit.fakes import FakeClock, fake_model, run_now


class Loads:
    def __init__(self) -> None:
        self.names: list[str] = []
        self.problem: Exception | None = None
        self.gate: threading.Event | None = None
        self.entered = threading.Event()

    def __call__(self, name: str, on_event: object) -> object:
        self.names.append(name)
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.problem is not None:
            raise self.problem
        return fake_model([], name=name.lower())


def make(keep_alive: float = 10.0) -> tuple[ModelCache, Loads, FakeClock]:
    loads, clock = Loads(), FakeClock()
    cache = ModelCache(
        loads,  # type: ignore[arg-type]
        run_now,
        clock,
        keep_alive=keep_alive,
        identity=str.lower,
        now=lambda: clock.now,
    )
    return cache, loads, clock


def names(cache: ModelCache) -> list[str]:
    return [model.id for model in cache.snapshot()]


def test_a_second_lease_does_not_load_again() -> None:
    cache, loads, _ = make()
    with cache.lease("A") as one, cache.lease("a") as two:
        assert one is two
    assert [n.lower() for n in loads.names] == ["a"]


def test_the_idle_clock_starts_at_zero_leases() -> None:
    cache, _, clock = make()
    with cache.lease("a"):
        with cache.lease("a"):
            pass
        clock.advance(60)
        assert names(cache) == ["a"]
    clock.advance(9)
    assert names(cache) == ["a"]
    clock.advance(1)
    assert names(cache) == []


def test_a_new_lease_stops_the_clock() -> None:
    cache, loads, clock = make()
    with cache.lease("a"):
        pass
    clock.advance(9)
    with cache.lease("a"):
        assert clock.jobs == {}
        clock.advance(9)
        assert names(cache) == ["a"]
    assert [n.lower() for n in loads.names] == ["a"]


def test_looking_keeps_nothing() -> None:
    cache, _, clock = make()
    with cache.lease("a"):
        pass
    for _ in range(9):
        clock.advance(1)
        assert cache.snapshot()[0].idle_seconds == clock.now
    clock.advance(1)
    assert cache.snapshot() == ()


@pytest.mark.parametrize(("keep_alive", "after", "left"), [(0.0, 0, []), (100.0, 99, ["a"]), (-1.0, 10**6, ["a"])])
def test_keep_alive_of_a_request(keep_alive: float, after: float, left: list[str]) -> None:
    cache, _, clock = make()
    with cache.lease("a", keep_alive=keep_alive):
        pass
    clock.advance(after)
    assert names(cache) == left


def test_a_leased_model_stays_beside_another() -> None:
    cache, _, _ = make()
    with cache.lease("a"), cache.lease("b"):
        assert names(cache) == ["a", "b"]


def test_a_failed_load_is_told_to_everyone_and_tried_again() -> None:
    cache, loads, _ = make()
    loads.problem = UnknownModel("no such model")
    with pytest.raises(UnknownModel), cache.lease("a"):
        pass
    loads.problem = None
    with cache.lease("a"):
        pass
    assert loads.names == ["a", "a"]


def test_two_requests_for_a_cold_model_load_it_once() -> None:
    cache, loads, _ = make()
    loads.gate = threading.Event()
    got: list[object] = []

    def use() -> None:
        with cache.lease("a") as model:
            got.append(model)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    loads.gate.set()
    for thread in threads:
        thread.join(10)
    assert len(got) == 8 and len({id(model) for model in got}) == 1
    assert [n.lower() for n in loads.names] == ["a"]


def test_waiting_for_a_load_can_be_cancelled() -> None:
    cache, loads, _ = make()
    loads.gate = threading.Event()

    def use() -> None:
        with cache.lease("a"):
            pass

    first = threading.Thread(target=use)
    first.start()
    assert loads.entered.wait(10)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled), cache.lease("a", cancel=cancel):
        pass
    loads.gate.set()
    first.join(10)


def test_ready_is_announced() -> None:
    cache, _, _ = make()
    events: list[object] = []
    with cache.lease("a", on_event=events.append):
        pass
    assert events == [ModelProgress(model="a", stage="ready", done=1000, total=1000)]


def test_the_first_callers_own_trouble_is_not_the_others() -> None:
    cache, loads, _ = make()
    loads.gate = threading.Event()
    outcomes: list[object] = []

    def impatient() -> None:
        def gone(event: object) -> None:
            raise BrokenPipeError

        original = cache._load

        def load(name: str, on_event: object) -> object:
            cache._load = original
            original(name, on_event)  # type: ignore[arg-type]
            on_event(None)  # type: ignore[operator]
            return None

        cache._load = load  # type: ignore[assignment]
        try:
            with cache.lease("a", on_event=gone):
                pass
        except BrokenPipeError as problem:
            outcomes.append(problem)

    def patient() -> None:
        with cache.lease("a") as model:
            outcomes.append(model)

    first = threading.Thread(target=impatient)
    first.start()
    assert loads.entered.wait(10)
    second = threading.Thread(target=patient)
    second.start()
    loads.gate.set()
    first.join(10)
    second.join(10)
    assert len(outcomes) == 2
    assert any(isinstance(outcome, BrokenPipeError) for outcome in outcomes)
    assert names(cache) == ["a"]


def test_of_leases_that_overlap_the_longest_counts() -> None:
    cache, _, clock = make()
    with cache.lease("a", keep_alive=-1), cache.lease("a"):
        pass
    clock.advance(10**6)
    assert names(cache) == ["a"]
