"""Contract 3 over a real socket: the models that jobs are read with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from ocr_mlx.engine.board import ModelState
from ocr_mlx.engine.cache import CachedModel, Evicted, Eviction
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.jobs.records import JobRequest, JobState
from ocr_mlx.model.registry import resolve_name
from ocr_mlx.server.jobs.catalog import Catalog
from ocr_mlx.server.running import EngineSlot
from ocr_mlx.settings import Settings
from tests.process.hub import hub_with
from tests.wire.fake_jobs import FakeJobs
from tests.wire.fakes import FakeBoard, FakeCache, FakeService, context, serving

GOT = "stepfun-ai/GOT-OCR-2.0-hf"
NAMES = ["got", "qari", "deepseek", "nougat", "lighton", "builtin"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's cache with one known model, one that nobody knows, and one that lacks its weights."""
    folder = tmp_path_factory.mktemp("hub")
    hub_with(folder, GOT)
    known = folder / f"models--{GOT.replace('/', '--')}"
    known.rename(folder / "models--me--tuned")
    hub_with(folder, GOT)
    hub_with(folder, "facebook/nougat-small")
    for weights in folder.glob("models--facebook--nougat-small/**/*.safetensors"):
        weights.unlink()
    return folder


@pytest.fixture(scope="module")
def running(hub: Path) -> Iterator[tuple[FakeService, FakeJobs, httpx.Client]]:
    service, jobs = FakeService(), FakeJobs()
    settings = Settings(contract="jobs", models_dir=hub, offline=True)
    with serving(service, settings, jobs) as url, httpx.Client(base_url=url) as client:
        client.post("/ocr", json={"filename": "data:image/png;base64,eA=="})  # the engine is there
        yield service, jobs, client


@pytest.fixture
def service(running: tuple[FakeService, FakeJobs, httpx.Client]) -> FakeService:
    running[0].cache, running[0].board = FakeCache(), FakeBoard()
    running[1].__dict__.update(FakeJobs().__dict__)
    return running[0]


@pytest.fixture
def jobs(running: tuple[FakeService, FakeJobs, httpx.Client], service: FakeService) -> FakeJobs:
    return running[1]


@pytest.fixture
def client(running: tuple[FakeService, FakeJobs, httpx.Client], service: FakeService) -> httpx.Client:
    return running[2]


def cached(name: str, leases: int = 0) -> CachedModel:
    return CachedModel(id=name, family="any", bytes=1, leases=leases, idle_seconds=0.0, pinned=False)


def test_the_list_asks_the_store_once(client: httpx.Client, jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers late costs that time once, not once for each model."""
    asked: list[None] = []
    monkeypatch.setattr(jobs, "current_model", lambda: asked.append(None))
    assert client.get("/models").status_code == 200 and len(asked) == 1


def test_the_list(client: httpx.Client) -> None:
    answer = client.get("/models").json()
    assert answer.keys() == {"models", "current_model", "default_model", "memory"}
    assert (answer["current_model"], answer["default_model"]) == (None, "qari")
    assert [model["name"] for model in answer["models"]] == NAMES
    for model in answer["models"]:
        assert model.keys() == {"name", "is_loaded", "is_available", "status", "progress", "message"}
        assert model["is_loaded"] is False
    here = {model["name"]: (model["status"], model["is_available"], model["progress"]) for model in answer["models"]}
    assert here["got"] == here["builtin"] == ("ready", True, 100)
    assert here["qari"] == here["nougat"] == ("not_found", False, 0)


def test_what_is_in_memory(client: httpx.Client, service: FakeService) -> None:
    service.cache = FakeCache((cached(GOT), cached("builtin", leases=1)))
    loaded = [model["name"] for model in client.get("/models").json()["models"] if model["is_loaded"]]
    assert loaded == ["got", "builtin"]


@pytest.mark.parametrize(
    ("state", "status", "progress", "words"),
    [
        (ModelState(stage="downloading", done=42, total=100), "downloading", 42, "Downloading (42%)."),
        (ModelState(stage="downloading"), "downloading", 0, "Downloading"),
        (ModelState(stage="loading"), "loading", 100, "Loading"),
        (ModelState(stage="failed", message="No space."), "failed", 0, "No space."),
    ],
)
@pytest.mark.parametrize("name", ["got", "lighton"])
def test_what_is_on_its_way(
    client: httpx.Client, service: FakeService, name: str, state: ModelState, status: str, progress: int, words: str
) -> None:
    service.board.states[name] = state
    answer = client.get(f"/models/{name}/status").json()
    assert words in answer.pop("message")
    assert answer == {"model": name, "status": status, "progress": progress, "is_ready": False}


def test_what_waits_for_memory(client: httpx.Client, service: FakeService) -> None:
    service.board.states["got"] = ModelState(stage="loading")
    service.cache = FakeCache(waiting=(GOT,))
    answer = client.get("/models/got/status").json()
    assert (answer["status"], answer["is_ready"]) == ("loading", False) and "Waits" in answer["message"]


@pytest.mark.parametrize(
    ("asked", "name", "status"),
    [
        ("got", "got", "ready"),
        ("GOT", "got", "ready"),
        (GOT, "got", "ready"),
        ("qari", "qari", "not_found"),
        ("facebook/nougat-small", "nougat", "not_found"),
        ("facebook/nougat-base", "facebook/nougat-base", "not_found"),
        ("me/tuned", "me/tuned", "ready"),
        ("builtin", "builtin", "ready"),
    ],
)
def test_the_status_of_one(client: httpx.Client, asked: str, name: str, status: str) -> None:
    answer = client.get(f"/models/{asked}/status")
    assert answer.status_code == 200
    assert (answer.json()["model"], answer.json()["status"]) == (name, status)
    assert answer.json()["is_ready"] == (status == "ready")
    assert answer.json().keys() == {"model", "status", "progress", "message", "is_ready"}


def test_the_memory_of_the_models(client: httpx.Client, service: FakeService, hub: Path) -> None:
    folder = next(hub.glob("models--me--tuned/snapshots/*"))
    used = replace(cached(GOT), idle_seconds=60.0, pinned=True)
    gone = Eviction(id=str(folder), at=0.5, reason="room", held=30, released=20)
    service.cache = FakeCache(
        (used, cached(str(folder), leases=2)), evictions=(replace(gone, at=0.0), gone), waiting=("qari",)
    )
    answer = client.get("/models")
    told = answer.json()["memory"]
    assert str(hub) not in answer.text
    got, own = told.pop("models")
    last_used = datetime.fromisoformat(got.pop("last_used")).replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - timedelta(minutes=1) - last_used) < timedelta(seconds=10)
    shared = {"family": "any", "bytes": 1, "leaving": False}
    assert got == shared | {"name": "got", "requests": 0, "idle_seconds": 60.0, "pinned": True}
    assert (own["name"], own["requests"], own["pinned"]) == (folder.name, 2, False)
    newest, oldest = told.pop("evictions")
    assert newest == {
        "name": folder.name,
        "at": "1970-01-01T00:00:00.500000",
        "reason": "room",
        "held_bytes": 30,
        "released_bytes": 20,
    }
    assert oldest["at"] == "1970-01-01T00:00:00.000000"
    assert told == {"limit_bytes": 1000, "models_bytes": 2, "process_bytes": 77, "waiting": ["qari"]}


def test_the_memory_before_the_engine_runs_is_not_known(hub: Path) -> None:
    made = context(FakeService(), Settings(models_dir=hub, offline=True))
    assert Catalog(made).memory() is None
    assert Catalog(made).evict(None).message == Catalog(made).evict("got").message == "No model is in memory."
    assert made.engine.state == "starting"


def test_evict_one(client: httpx.Client, service: FakeService) -> None:
    service.cache.models = (cached(GOT),)
    service.cache.told = Evicted(gone=(Eviction(id=GOT, at=1.0, reason="asked", held=7, released=8),), in_use=())
    for name in ("got", "GOT", GOT):
        answer = client.post(f"/models/{name}/evict")
        assert answer.status_code == 200
        assert answer.json() == {
            "evicted": [
                {
                    "name": "got",
                    "at": "1970-01-01T00:00:01.000000",
                    "reason": "asked",
                    "held_bytes": 7,
                    "released_bytes": 8,
                }
            ],
            "in_use": [],
            "message": "Unloaded.",
        }
    assert {resolve_name(str(asked)) for asked in service.cache.asked} == {GOT}


def test_evict_one_that_is_in_use(client: httpx.Client, service: FakeService) -> None:
    service.cache.told = Evicted(gone=(), in_use=(GOT,))
    answer = client.post("/models/got/evict")
    assert answer.status_code == 202
    assert answer.json()["in_use"] == ["got"] and "last request" in answer.json()["message"]


def test_evict_one_that_is_not_in_memory(client: httpx.Client) -> None:
    answer = client.post("/models/qari/evict")
    assert (answer.status_code, answer.json()) == (
        200,
        {"evicted": [], "in_use": [], "message": "It was not in memory."},
    )


def test_evict_all(client: httpx.Client, service: FakeService) -> None:
    gone = Eviction(id=GOT, at=1.0, reason="asked", held=7, released=8)
    service.cache.told = Evicted(gone=(gone, gone), in_use=("builtin",))
    answer = client.post("/models/evict")
    assert answer.status_code == 200
    assert (answer.json()["in_use"], answer.json()["message"]) == (["builtin"], "2 unloaded. 1 in use stayed.")
    assert service.cache.asked == [None]


def test_evict_a_folder_that_is_in_memory_by_its_name(
    client: httpx.Client, service: FakeService, tmp_path: Path
) -> None:
    folder = tmp_path / "my-own"
    folder.mkdir()
    assert client.post("/models/my-own/evict").status_code == 404
    service.cache.models = (cached(str(folder)),)
    assert client.post("/models/my-own/evict").status_code == 200
    assert service.cache.asked == [str(folder)]


def test_evict_is_not_for_web_pages(client: httpx.Client, service: FakeService) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
        for path in ("/models/evict", "/models/got/evict"):
            assert client.post(path, headers=headers).status_code == 403
    assert client.get("/models/evict").status_code in (404, 405)
    assert service.cache.asked == []


STRANGERS = ["zzz", "nobody/nothing", "a/b/c", "..", "~root", "openai+http://127.0.0.1:1/v1#x", "\x00", "x" * 300, " "]


@pytest.mark.parametrize("name", STRANGERS)
def test_models_that_nobody_knows(client: httpx.Client, jobs: FakeJobs, name: str) -> None:
    answer = client.get(f"/models/{quote(name, safe='/')}/status")
    assert answer.status_code == 404
    assert client.post(f"/models/{quote(name, safe='/')}/evict").status_code == 404
    answer = client.post("/models/switch", json={"model": name})
    assert answer.status_code == 400
    assert answer.json() == {
        "detail": f"Unknown model: {name.replace(chr(0), '?')}. Use GET /models to list available models."
    }
    assert jobs.current is None


def test_unknown_status_in_the_services_words(client: httpx.Client) -> None:
    assert client.get("/models/zzz/status").json() == {"detail": "Model 'zzz' not found"}


def test_folders_of_this_machine_are_no_models(client: httpx.Client, hub: Path) -> None:
    folder = next(hub.glob("models--me--tuned/snapshots/*"))
    answer = client.post("/models/switch", json={"model": str(folder)})
    assert answer.status_code == 400
    assert client.get(f"/models/{folder}/status").status_code == 404


def test_switch(client: httpx.Client, jobs: FakeJobs) -> None:
    assert client.get("/models/current").json() == {"model": None, "is_processing": False}
    answer = client.post("/models/switch", json={"model": "got"})
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "previous_model": None,
            "current_model": "got",
            "message": "Model set to got. Worker will load on next job.",
        },
    )
    assert jobs.current == "got"
    assert client.get("/models/current").json() == {"model": "got", "is_processing": False}
    assert client.post("/models/switch", json={"model": "QARI"}).json()["previous_model"] == "got"
    assert client.get("/models").json()["current_model"] == "qari"


def test_switch_by_hub_id(client: httpx.Client, jobs: FakeJobs) -> None:
    answer = client.post("/models/switch", json={"model": "facebook/nougat-base"})
    assert answer.json()["current_model"] == "facebook/nougat-base"
    listed = client.get("/models").json()
    assert [model["name"] for model in listed["models"]] == [*NAMES, "facebook/nougat-base"]
    sent = client.post("/ocr", files={"file": ("a.png", b"\x89PNG\r\n\x1a\n")})
    assert "'facebook/nougat-base' engine" in sent.json()["message"]
    assert client.post("/models/switch", json={"model": GOT}).json()["current_model"] == "got"


@pytest.mark.parametrize(
    "body",
    [{}, {"model": None}, {"model": 7}, {"model": ["got"]}, {"model": "x" * 301}, [], "got", None, {"name": "got"}],
)
def test_switches_that_say_nothing(client: httpx.Client, jobs: FakeJobs, body: object) -> None:
    answer = client.post("/models/switch", json=body)
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"][0] == "body"
    assert jobs.current is None


def test_reading_is_told(client: httpx.Client, service: FakeService, jobs: FakeJobs) -> None:
    service.cache = FakeCache((cached(GOT, leases=1),))
    assert client.get("/models/current").json() == {"model": None, "is_processing": True}
    service.cache = FakeCache((cached(GOT),))
    assert client.get("/models/current").json()["is_processing"] is False
    job = jobs.submit(b"x", JobRequest(model="got"), filename="", engine="got")
    assert client.get("/models/current").json()["is_processing"] is False
    jobs.change(job.id, state=JobState.PROCESSING)
    assert client.get("/models/current").json()["is_processing"] is True


def test_the_operators_own_folder_has_a_name(hub: Path) -> None:
    folder = next(hub.glob("models--me--tuned/snapshots/*"))
    jobs = FakeJobs()
    with serving(FakeService(), Settings(model=str(folder)), jobs) as url, httpx.Client(base_url=url) as client:
        answer = client.get("/models")
        assert answer.json()["default_model"] == folder.name and str(hub) not in answer.text
        assert answer.json()["models"][-1]["status"] == "ready"
        assert client.post("/models/switch", json={"model": folder.name}).status_code == 200
        assert jobs.current == str(folder)
        sent = client.post("/ocr", files={"file": ("a.png", b"\x89PNG\r\n\x1a\n")})
        assert f"'{folder.name}' engine" in sent.json()["message"]
        assert jobs.asked[0].model == str(folder)


def test_an_engine_elsewhere_reads_all(hub: Path) -> None:
    jobs = FakeJobs()
    settings = Settings(model_source="vllm", models_dir=hub, offline=True)
    with serving(FakeService(), settings, jobs) as url, httpx.Client(base_url=url) as client:
        answer = client.get("/models/qari/status").json()
        assert (answer["status"], answer["message"]) == ("ready", "Read by another engine.")


def test_where_workers_read(client: httpx.Client, jobs: FakeJobs) -> None:
    jobs.is_remote = True
    assert "worker" in client.get("/models/got/status").json()["message"]
    assert "worker" in client.get("/models/qari/status").json()["message"]


def test_an_engine_that_cannot_start(hub: Path) -> None:
    def build() -> FakeService:
        raise OSError

    made = replace(context(FakeService(), Settings(models_dir=hub, offline=True)), engine=EngineSlot(build))
    with pytest.raises(OcrMlxError):
        made.engine.wait()
    entry = Catalog(made).entry("got")
    assert (entry.status, entry.is_available, "doctor" in entry.message) == ("failed", False, True)
