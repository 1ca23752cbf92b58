"""Which models stay, which go, who waits: real threads where they matter, a fake clock, and no weights."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import mlx.core as mx
import pytest
from mlx import nn

from ocr_mlx.engine import cache as module
from ocr_mlx.engine.cache import Eviction, ModelCache
from ocr_mlx.engine.clock import SchedulerClock
from ocr_mlx.engine.worker import Worker
from ocr_mlx.errors import Cancelled, OutOfMemory, ShuttingDown, UnknownModel
from ocr_mlx.model.base import LoadedModel
from ocr_mlx.observer import Observer
from tests.unit.fakes import FakeClock, fake_model, run_now

MIB = 2**20
WAIT = 10.0


@pytest.fixture(autouse=True)
def nothing_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights, so nothing to give back to the system, which takes a while."""
    monkeypatch.setattr(module, "give_back", lambda: None)


class Told(Observer):
    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def loaded(self, model: str, held: int, seconds: float) -> None:
        self.heard.append(("loaded", model, held, seconds))

    def evicted(self, model: str, held: int, released: int) -> None:
        self.heard.append(("evicted", model, held, released))


class Watched(threading.Event):
    """A cancel flag that tells when somebody looks at it: a load that waits for room does, one that has it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = threading.Event()

    def is_set(self) -> bool:
        self.looked.set()
        return super().is_set()


class House:
    """A cache for models whose names end in their size in MiB; `log` has what was loaded and unloaded, in order."""

    def __init__(self, limit: int | None = 10, keep_alive: float = 10.0) -> None:
        self.clock = FakeClock()
        self.told = Told()
        self.log: list[str] = []
        self.real: dict[str, int] = {}
        self.seconds = 0.0
        self.entered = threading.Event()
        self.gate: threading.Event | None = None
        self.cache = ModelCache(
            self._load,
            self._run,
            self.clock,
            keep_alive=keep_alive,
            limit=limit and limit * MIB,
            observer=self.told,
            identity=str.lower,
            now=lambda: self.clock.now,
        )
        self.threads: list[threading.Thread] = []

    def _load(self, name: str, on_event: object) -> LoadedModel:
        size = int(name.rpartition("-")[2]) * MIB
        self.cache.make_room(name, size)
        self.log.append(f"load {name}")
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(WAIT)
        self.clock.now += self.seconds
        return replace(fake_model([], name=name), bytes=self.real.get(name, size // MIB) * MIB)

    def _run(self, function: Callable[[], Eviction]) -> Future[Eviction]:
        done = run_now(function)  # type: ignore[arg-type]
        self.log.append(f"unload {done.result().id}")  # type: ignore[attr-defined]
        return done  # type: ignore[return-value]

    def use(self, name: str, keep_alive: float | None = None) -> None:
        with self.cache.lease(name, keep_alive=keep_alive):
            self.clock.now += 1

    @property
    def names(self) -> list[str]:
        return [model.id for model in self.cache.snapshot()]

    @contextmanager
    def waiting(self, name: str, outcome: list[object]) -> Iterator[Watched]:
        """A thread that wants the model and cannot have it now."""
        flag = Watched()

        def want() -> None:
            try:
                with self.cache.lease(name, cancel=flag):
                    outcome.append(self.names)
            except Exception as problem:
                outcome.append(problem)

        thread = threading.Thread(target=want)
        thread.start()
        assert flag.looked.wait(WAIT)
        assert outcome == [] and thread.is_alive()
        yield flag
        thread.join(WAIT)
        assert not thread.is_alive()


# --- who stays -----------------------------------------------------------------------------------------------------


def test_several_models_stay_while_they_fit() -> None:
    house = House()
    for name in ("a-3", "b-3", "c-4", "a-3", "b-3"):
        house.use(name)
    assert house.log == ["load a-3", "load b-3", "load c-4"]
    assert house.cache.memory().held == house.cache.memory().limit == 10 * MIB


def test_without_a_limit_all_stay() -> None:
    house = House(limit=None)
    for name in ("a-300", "b-3000"):
        house.use(name)
    assert house.names == ["a-300", "b-3000"] and house.cache.memory().limit is None


def test_the_least_recently_used_goes_before_the_next_is_loaded() -> None:
    house = House()
    for name in ("a-3", "b-3", "c-4", "a-3", "d-1"):
        house.use(name)
    assert house.log == ["load a-3", "load b-3", "load c-4", "unload b-3", "load d-1"]


def test_use_counts_from_its_end() -> None:
    house = House()
    with house.cache.lease("a-5"):
        house.clock.now += 5
        house.use("b-5")
        house.clock.now += 5
    house.use("c-1")
    assert house.log[2] == "unload b-5"


def test_none_goes_in_vain() -> None:
    house = House()
    house.use("old-1")
    house.use("b-8")
    house.use("c-9")
    assert house.log[2:] == ["unload b-8", "load c-9"]
    assert house.names == ["old-1", "c-9"]


def test_a_model_that_turns_out_larger_drives_out_what_is_idle() -> None:
    house = House()
    house.real["b-3"] = 9
    house.use("a-3")
    with house.cache.lease("b-3"):
        assert house.names == ["b-3"]
        assert house.cache.memory().held == 9 * MIB


def test_a_model_that_turns_out_smaller_leaves_more_room() -> None:
    house = House()
    house.real["a-8"] = 2
    for name in ("a-8", "b-8"):
        house.use(name)
    assert house.names == ["a-8", "b-8"]


# --- pins ----------------------------------------------------------------------------------------------------------


def test_a_pinned_model_never_makes_room() -> None:
    house = House()
    house.use("a-4", keep_alive=-1)
    house.use("b-4")
    house.use("c-6")
    assert house.names == ["a-4", "c-6"]
    with pytest.raises(OutOfMemory, match="pinned models hold 4 MiB"):
        house.use("d-7")
    assert house.names == ["a-4", "c-6"], "nothing went in vain"
    house.clock.advance(10**6)
    assert house.names == ["a-4"]


def test_requests_that_name_no_time_leave_a_pin() -> None:
    house = House()
    house.use("a-4", keep_alive=-1)
    house.use("a-4")
    house.clock.advance(10**6)
    assert house.cache.snapshot()[0].pinned
    house.use("a-4", keep_alive=5)
    assert not house.cache.snapshot()[0].pinned
    house.clock.advance(5)
    assert house.names == []


def test_models_that_the_operator_keeps_for_good_still_make_room() -> None:
    house = House(keep_alive=-1)
    house.use("a-6")
    house.clock.advance(10**6)
    assert house.names == ["a-6"] and not house.cache.snapshot()[0].pinned
    house.use("b-6")
    assert house.names == ["b-6"]


def test_what_could_never_fit_is_refused_and_drives_nobody_out() -> None:
    house = House()
    house.use("a-4")
    with house.cache.lease("b-6"), pytest.raises(OutOfMemory, match="takes 11 MiB of memory, and models may fill 10"):
        house.use("c-11")
    assert house.names == ["a-4", "b-6"]
    assert house.cache.memory().waiting == ()


# --- waiting for room ----------------------------------------------------------------------------------------------


def test_a_load_waits_until_the_last_lease_ends() -> None:
    house, outcome = House(), list[object]()
    with ExitStack() as leases:
        leases.enter_context(house.cache.lease("a-6"))
        more = leases.enter_context(ExitStack())
        more.enter_context(house.cache.lease("a-6"))
        with house.waiting("b-6", outcome):
            assert house.cache.memory().waiting == ("b-6",)
            assert house.cache.memory().held == 6 * MIB
            more.close()
            assert outcome == []
            leases.close()
    assert outcome == [["b-6"]]
    assert house.log == ["load a-6", "unload a-6", "load b-6"]
    assert house.cache.memory().waiting == ()


def test_waiting_for_room_can_be_given_up() -> None:
    house, outcome = House(), list[object]()
    with house.cache.lease("a-6"):
        with house.waiting("b-6", outcome) as cancel:
            cancel.set()
        assert isinstance(outcome[0], Cancelled)
        assert house.names == ["a-6"] and house.cache.memory().waiting == ()
    house.use("b-6")


def test_waiting_for_room_ends_with_the_engine() -> None:
    house, outcome = House(), list[object]()
    with house.cache.lease("a-6"), house.waiting("b-6", outcome):
        house.cache.close()
    assert isinstance(outcome[0], ShuttingDown)
    assert house.log == ["load a-6", "unload a-6"], "a lease that ends later takes its model with it"


def test_waiting_ends_when_a_pin_makes_it_hopeless() -> None:
    house, outcome = House(), list[object]()
    with house.cache.lease("a-6"), house.waiting("b-6", outcome):
        house.use("a-6", keep_alive=-1)
    assert isinstance(outcome[0], OutOfMemory)
    assert house.names == ["a-6"]


def test_others_that_fit_do_not_wait() -> None:
    house, outcome = House(), list[object]()
    with house.cache.lease("a-6"):
        with house.waiting("b-6", outcome) as cancel:
            house.clock.now += 100
            house.use("c-4")
            house.use("c-4")
            assert outcome == []
            cancel.set()


def test_a_load_that_has_waited_long_is_not_overtaken() -> None:
    """New requests for the model in its way wait behind it; before, they go on."""
    house, first, second = House(), list[object](), list[object]()
    with ExitStack() as lease:
        lease.enter_context(house.cache.lease("a-6"))
        with house.waiting("b-6", first):
            house.clock.now += 9
            house.use("a-6")
            assert first == []
            house.clock.now += 1
            with house.waiting("a-6", second):
                lease.close()
    assert first == [["b-6"]] and second == [["a-6"]]
    assert house.log == ["load a-6", "unload a-6", "load b-6", "unload b-6", "load a-6"]


# --- races ---------------------------------------------------------------------------------------------------------


def test_two_requests_for_a_cold_model_load_it_once() -> None:
    house = House()
    start, got = threading.Barrier(8), list[int]()

    def use() -> None:
        start.wait(WAIT)
        with house.cache.lease("a-3") as model:
            got.append(id(model))

    house.gate = threading.Event()
    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert house.entered.wait(WAIT)
    house.gate.set()
    for thread in threads:
        thread.join(WAIT)
    assert len(got) == 8 and len({*got}) == 1 and house.log == ["load a-3"]


def test_a_clock_that_fires_late_does_not_unload_what_was_used_since() -> None:
    house = House()
    house.use("a-3")
    (_, late), *_ = house.clock.jobs.values()
    house.use("a-3")
    late()
    assert house.names == ["a-3"]
    with house.cache.lease("a-3"):
        late()
        assert house.names == ["a-3"]


def test_a_request_at_the_instant_of_eviction_is_served() -> None:
    """The model is being let go on the worker when the request comes: it is loaded anew, and in that order."""
    worker, order = Worker(), list[str]()
    inside, go = threading.Event(), threading.Event()

    def load(name: str, on_event: object) -> LoadedModel:
        return worker.call(lambda: (order.append("load"), fake_model([]))[1]).result(WAIT)

    def run(function: Callable[[], Eviction]) -> Future[Eviction]:
        def slow() -> Eviction:
            inside.set()
            assert go.wait(WAIT)
            order.append("unload")
            return function()

        return worker.call(slow)

    cache = ModelCache(load, run, FakeClock(), keep_alive=0)
    with cache.lease("a"):
        pass
    assert inside.wait(WAIT) and cache.snapshot() == ()
    threading.Timer(0.01, go.set).start()
    with cache.lease("a", keep_alive=5) as model:
        assert model.family.name == "fake"
    assert order == ["load", "unload", "load"]
    worker.close()


@pytest.mark.parametrize("limit", [None, 10])
def test_a_storm_across_the_instant_of_eviction_loses_none(limit: int | None) -> None:
    """Many threads, four models, times to live about as long as the uses; with a limit, two fit at a time."""
    worker, clock = Worker(), SchedulerClock()
    alive: dict[str, int] = {}
    most = [0]

    def load(name: str, on_event: object) -> LoadedModel:
        cache.make_room(name, 5 * MIB)

        def make() -> LoadedModel:
            alive[name] = alive.get(name, 0) + 1
            assert alive[name] == 1, "loaded twice"
            most[0] = max(most[0], sum(alive.values()))
            return replace(fake_model([], name=name), bytes=5 * MIB, kept={"here": True})

        return worker.call(make).result(WAIT)

    def run(function: Callable[[], Eviction]) -> Future[Eviction]:
        def unload() -> Eviction:
            gone = function()
            alive[gone.id] -= 1
            return gone

        return worker.call(unload)

    cache = ModelCache(load, run, clock, keep_alive=0.01, limit=limit and limit * MIB)
    start, served, wrong = threading.Barrier(12), [0] * 12, list[BaseException]()

    def client(number: int) -> None:
        dice = random.Random(number)
        start.wait(WAIT)
        try:
            for _ in range(40):
                name = dice.choice("abcd")
                with cache.lease(name, keep_alive=dice.choice((0.0, 0.001, 0.005, 0.02, None))) as model:
                    threading.Event().wait(dice.choice((0.0, 0.001, 0.004)))
                    assert model.ref.id == name and model.kept == {"here": True}, "let go under a lease"
                served[number] += 1
        except BaseException as problem:
            wrong.append(problem)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == [] and served == [40] * 12
    assert limit is None or most[0] <= 2
    cache.evict()
    assert cache.snapshot() == () and set(alive.values()) == {0}
    assert (cache.memory().held, cache.memory().waiting) == (0, ())
    clock.close()
    worker.close()


# --- evict now -----------------------------------------------------------------------------------------------------


def test_evict_all_takes_what_is_idle_pinned_or_not_and_leaves_the_rest() -> None:
    house = House()
    house.use("a-2", keep_alive=-1)
    house.use("b-2")
    with house.cache.lease("c-2"):
        told = house.cache.evict()
        assert [gone.id for gone in told.gone] == ["a-2", "b-2"] and told.in_use == ("c-2",)
        assert {gone.reason for gone in told.gone} == {"asked"}
    assert house.names == ["c-2"], "it was not named, so it stays"
    assert house.cache.evict().in_use == ()
    assert house.cache.evict() == module.Evicted(gone=(), in_use=())


def test_evict_one_by_any_of_its_names() -> None:
    house = House()
    for name in ("a-2", "b-2", "c-2"):
        house.use(name)
    assert [gone.held for gone in house.cache.evict("A-2").gone] == [2 * MIB]
    assert house.cache.evict("nobody").gone == ()
    assert house.names == ["b-2", "c-2"]


def test_a_model_in_use_that_is_told_to_go_serves_its_requests_and_goes() -> None:
    house = House()
    with house.cache.lease("a-2", keep_alive=-1):
        assert house.cache.evict("a-2") == module.Evicted(gone=(), in_use=("a-2",))
        assert house.cache.snapshot()[0].leaving
        house.use("a-2")
        assert house.names == ["a-2"]
    assert house.names == []
    assert [gone.reason for gone in house.cache.memory().evictions] == ["asked"]
    house.use("a-2")
    assert house.names == ["a-2"] and not house.cache.snapshot()[0].leaving


def test_a_model_that_is_told_to_go_while_it_loads_serves_and_goes() -> None:
    house = House()
    house.gate = threading.Event()
    thread = threading.Thread(target=house.use, args=("a-2", 60.0))
    thread.start()
    assert house.entered.wait(WAIT)
    assert house.cache.evict("a-2").in_use == ("a-2",)
    house.gate.set()
    thread.join(WAIT)
    assert house.names == [] and house.log == ["load a-2", "unload a-2"]


# --- what is told --------------------------------------------------------------------------------------------------


def test_what_went_and_what_it_gave_is_measured_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    house.seconds = 3.0
    measured = iter((1000, 400, 400, 500, 77))
    monkeypatch.setattr(module, "held_bytes", lambda: next(measured))
    house.use("a-2", keep_alive=0)
    house.use("b-9")
    house.use("c-2")
    assert house.told.heard == [
        ("loaded", "a-2", 2 * MIB, 3.0),
        ("evicted", "a-2", 2 * MIB, 600),
        ("loaded", "b-9", 9 * MIB, 3.0),
        ("evicted", "b-9", 9 * MIB, 0),
        ("loaded", "c-2", 2 * MIB, 3.0),
    ]
    told = house.cache.memory()
    assert told.process == 77
    assert [(gone.id, gone.reason, gone.held, gone.released) for gone in told.evictions] == [
        ("a-2", "idle", 2 * MIB, 600),
        ("b-9", "room", 9 * MIB, 0),
    ]


def test_the_last_evictions_are_remembered() -> None:
    house = House()
    for number in range(25):
        house.use(f"m{number}-1", keep_alive=0)
    assert [gone.id for gone in house.cache.memory().evictions] == [f"m{number}-1" for number in range(5, 25)]


def test_the_time_to_load_leaves_out_the_wait_for_room() -> None:
    house, outcome = House(), list[object]()
    house.seconds = 2.0
    with ExitStack() as lease:
        lease.enter_context(house.cache.lease("a-6"))
        with house.waiting("b-6", outcome):
            house.clock.now += 50
            lease.close()
    assert house.told.heard[-1] == ("loaded", "b-6", 6 * MIB, 2.0)


def test_looking_keeps_nothing_and_wakes_nothing() -> None:
    house = House()
    house.use("a-2")
    for _ in range(10):
        house.clock.advance(1)
        house.cache.memory()
        house.cache.snapshot()
    assert house.names == [] and house.log == ["load a-2", "unload a-2"]


def test_an_unloaded_graph_holds_no_arrays_though_somebody_still_names_it() -> None:
    """As the traceback of a request that failed does."""

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(4, 4), {"deep": nn.Linear(4, 4)}]
            self.table = mx.zeros((4, 4))

    graph = Graph()
    assert len(nn.utils.tree_flatten(graph.parameters())) == 5
    model = replace(fake_model([]), graph=graph, kept={"made": mx.zeros(4)})  # type: ignore[arg-type]
    cache = ModelCache(lambda name, on_event: model, run_now, FakeClock(), keep_alive=0)  # type: ignore[arg-type]
    with pytest.raises(UnknownModel), cache.lease("a") as named:
        raise UnknownModel("no")
    assert nn.utils.tree_flatten(named.graph.parameters()) == [] and named.kept == {}  # type: ignore[attr-defined]
