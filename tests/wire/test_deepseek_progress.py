"""Contract 5 over a real socket: tasks and their steps."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ocr_mlx.domain import (
    DocumentStarted,
    ModelProgress,
    OcrRequest,
    OcrResult,
    OnEvent,
    PageDone,
    TextDelta,
    TextRewind,
)
from ocr_mlx.errors import Cancelled, DownloadFailed
from ocr_mlx.server.deepseek import routes, tasks
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, page, result, serving

PNG = b"\x89PNG\r\n\x1a\n and so on"
SETTINGS = Settings(history_ttl=0)
Step = tuple[str, dict[str, Any]]


class Stepping(FakeService):
    """Two pages; waits for the test before the first and between them."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Semaphore(0)
        self.fails: Exception | None = None
        self.lasts = False

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        assert on_event is not None
        on_event(ModelProgress(model="m", stage="downloading", done=50, total=100))
        on_event(ModelProgress(model="m", stage="loading"))
        if self.lasts:
            assert cancel is not None and cancel.wait(10)
            raise Cancelled("Nobody waits.")
        self.may.acquire(timeout=10)
        if self.fails:
            raise self.fails
        on_event(DocumentStarted(model="m", pages=(0, 1)))
        for index in range(2):
            on_event(TextDelta(page=index, text="secret words"))
            on_event(TextRewind(page=index, length=3))
            on_event(PageDone(result=page(index)))
            self.may.acquire(timeout=10)
        return result(page(0), page(1))


@pytest.fixture
def service() -> Stepping:
    return Stepping()


@pytest.fixture
def client(service: Stepping) -> Iterator[httpx.Client]:
    with serving(service, SETTINGS) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def steps(response: httpx.Response) -> Iterator[Step]:
    """(event, data) of each; `message` is what a browser calls those without a name."""
    event = "message"
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)
            event = "message"


def followed(client: httpx.Client, task: str, seen: threading.Event | None = None) -> list[Step]:
    found = []
    with client.stream("GET", f"/api/progress/{task}") as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        for step in steps(response):
            found.append(step)
            if seen is not None:
                seen.set()
    return found


def created(client: httpx.Client) -> str:
    answer = client.post("/api/task/create")
    assert answer.status_code == 200 and list(answer.json()) == ["taskId"]
    return str(uuid.UUID(answer.json()["taskId"]))


def send(client: httpx.Client, task: str, data: bytes = PNG) -> httpx.Response:
    return client.post("/api/ocr", files={"image": data}, data={"task_id": task})


def test_a_task_is_followed_from_its_beginning_to_its_end(
    client: httpx.Client, service: Stepping, pool: ThreadPoolExecutor
) -> None:
    task, seen = created(client), threading.Event()
    following = pool.submit(followed, client, task, seen)
    assert seen.wait(10)
    service.may.release(3)
    assert send(client, task).status_code == 200
    found = following.result(20)
    assert [event for event, _ in found] == ["message"] * (len(found) - 1) + ["complete"]
    assert [(data["stage"], data["current"], data["total"], data["percent"]) for _, data in found] == [
        ("pending", 0, 0, 0),
        ("upload", 0, 0, 5),
        ("preprocessing", 0, 0, 10),
        ("preprocessing", 0, 0, 14),
        ("preprocessing", 0, 0, 19),
        ("inference", 0, 2, 20),
        ("inference", 1, 2, 55),
        ("inference", 2, 2, 90),
        ("postprocessing", 2, 2, 95),
        ("complete", 2, 2, 100),
        ("complete", 2, 2, 100),
    ]
    assert all(set(data) == {"stage", "current", "total", "message", "percent"} for _, data in found)
    assert "50%" in found[3][1]["message"] and "第 2/2 页" in found[6][1]["message"]
    assert "secret" not in str(found)


def test_whoever_comes_in_the_middle_gets_the_last_step_first(
    client: httpx.Client, service: Stepping, pool: ThreadPoolExecutor
) -> None:
    sending = pool.submit(send, client, "my-own.id_1")
    service.may.release()
    while client.get("/api/progress/my-own.id_1x").status_code != 404:
        pass
    first: list[Step] = []
    while not first or first[0][1]["current"] != 1:
        seen = threading.Event()
        with client.stream("GET", "/api/progress/my-own.id_1") as response:
            first = [] if response.status_code == 404 else [next(steps(response))]
    following = pool.submit(followed, client, "my-own.id_1", seen)
    assert seen.wait(10)
    service.may.release(2)
    found = following.result(20)
    assert sending.result(20).status_code == 200
    assert [data["percent"] for _, data in found] == [55, 90, 95, 100, 100]


def test_whoever_comes_late_gets_the_end(client: httpx.Client, service: Stepping) -> None:
    task = created(client)
    service.may.release(3)
    assert send(client, task).status_code == 200
    assert [(event, data["stage"]) for event, data in followed(client, task)] == [
        ("message", "complete"),
        ("complete", "complete"),
    ]


def test_a_failed_request_ends_with_an_error(client: httpx.Client, service: Stepping) -> None:
    task = created(client)
    service.fails = DownloadFailed("No network.", hint="Try later.")
    service.may.release()
    assert send(client, task).status_code == 503
    assert [(event, data["stage"], data["message"]) for event, data in followed(client, task)] == [
        ("error", "error", "No network. Try later.")
    ]


@pytest.mark.parametrize("data", [b"", b"words"])
def test_a_refused_request_ends_with_an_error_too(client: httpx.Client, data: bytes) -> None:
    task = created(client)
    answer = send(client, task, data)
    assert answer.status_code == 400
    assert [(event, data["message"]) for event, data in followed(client, task)] == [("error", answer.json()["detail"])]


def test_an_id_in_use_is_refused_and_one_that_ended_may_be_used_again(
    client: httpx.Client, service: Stepping, pool: ThreadPoolExecutor
) -> None:
    task = created(client)
    sending = pool.submit(send, client, task)
    while followed_first(client, task) == "pending":
        pass
    assert send(client, task).status_code == 409
    service.may.release(6)
    assert sending.result(20).status_code == 200
    assert send(client, task).status_code == 200


def followed_first(client: httpx.Client, task: str) -> str:
    with client.stream("GET", f"/api/progress/{task}") as response:
        return str(next(steps(response))[1]["stage"])


def test_an_unknown_task_is_404(client: httpx.Client) -> None:
    answer = client.get(f"/api/progress/{uuid.uuid4()}")
    assert (answer.status_code, answer.json()) == (404, {"detail": "任务不存在或已过期。"})


def test_an_id_that_cannot_be_one_is_422(client: httpx.Client) -> None:
    answer = send(client, "a/b")
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["body", "task_id"]


def test_a_task_nobody_works_on_times_out_after_signs_of_life(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = created(client)
    monkeypatch.setattr(routes, "PING", 0.05)
    monkeypatch.setattr(tasks, "IDLE", 0.3)
    with client.stream("GET", f"/api/progress/{task}") as response:
        text = response.read().decode()
    assert text.count(": ping\n\n") > 1
    assert text.endswith('event: timeout\ndata: {"message":"连接超时"}\n\n')


def test_a_client_that_leaves_ends_its_task(service: Stepping, pool: ThreadPoolExecutor) -> None:
    service.lasts = True
    with serving(service, SETTINGS) as url, httpx.Client(base_url=url, timeout=20) as client:
        task, seen = created(client), threading.Event()
        following = pool.submit(followed, client, task, seen)
        assert seen.wait(10)
        with httpx.Client(base_url=url, timeout=0.3) as other, pytest.raises(httpx.ReadTimeout):
            send(other, task)
        assert following.result(20)[-1][0] == "error"


def test_tasks_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MOST", 3)
    kept = tasks.Tasks()
    names = [kept.create() for _ in range(3)]
    kept._tasks[names[1]].seen -= 10.0
    names.append(kept.create())
    assert [kept.find(name) is not None for name in names] == [True, False, True, True]
    kept._tasks[names[3]].seen -= tasks.KEPT
    assert [kept.find(name) is not None for name in names] == [True, False, True, False]


def test_an_id_that_is_used_again_begins_anew() -> None:
    kept = tasks.Tasks()
    first = kept.begin("again")
    first.complete()
    second = kept.begin("again")
    assert second is not first and second.last == tasks.PENDING and kept.find("again") is second
