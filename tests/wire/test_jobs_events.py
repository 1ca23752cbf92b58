"""Contract 3 over a real socket: a job's way as server-sent events."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from ocr_mlx.domain import PageError, PageStatus
from ocr_mlx.errors import JobsUnavailable
from ocr_mlx.jobs.records import JobRequest, JobState
from ocr_mlx.server.jobs import events
from ocr_mlx.settings import Settings
from tests.wire.fake_jobs import FakeJobs
from tests.wire.fakes import FakeService, page, serving


@dataclass
class Heard:
    event: str
    data: Any
    id: str | None


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs(selected=(0, 1, 2))


@pytest.fixture
def client(jobs: FakeJobs) -> Iterator[httpx.Client]:
    settings = Settings(drain=0.5)
    with serving(FakeService(), settings, jobs) as url, httpx.Client(base_url=url, timeout=10) as client:
        yield client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "POLL", 0.02)


@pytest.fixture
def job_id(jobs: FakeJobs) -> str:
    return jobs.submit(b"x", JobRequest(model="got"), filename="a.png", engine="got").id


def heard(lines: Iterator[str]) -> Iterator[Heard]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            assert name not in fields
            fields[name] = value
        elif "event" in fields:
            yield Heard(fields["event"], json.loads(fields["data"]), fields.get("id"))
            fields = {}
        else:
            assert fields.keys() == {""}, fields
            yield Heard("comment", fields[""], None)
            fields = {}
    assert not fields


def all_of(client: httpx.Client, job_id: str, last: str | None = None) -> list[Heard]:
    headers = {"Last-Event-ID": last} if last is not None else {}
    with client.stream("GET", f"/ocr/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        return list(heard(answer.iter_lines()))


def test_the_whole_way(client: httpx.Client, jobs: FakeJobs, job_id: str) -> None:
    with client.stream("GET", f"/ocr/{job_id}/events") as answer:
        stream = heard(answer.iter_lines())
        assert next(stream) == Heard("progress", {"id": job_id, "status": "pending", "done": 0, "total": 3}, None)
        jobs.change(job_id, state=JobState.PROCESSING)
        assert next(stream).data["status"] == "processing"
        jobs.read(job_id, page(2, "drei\nvier ü", confidence=0.25))
        assert next(stream).data["done"] == 1
        told = next(stream)
        assert (told.event, told.id) == ("page", "2")
        assert told.data == {
            "index": 2,
            "page_number": 3,
            "following": [],
            "status": "ok",
            "text": "drei\nvier ü",
            "error": None,
            "confidence": 0.25,
        }
        why = PageError(code="bad_pdf", message="The page is damaged.")
        jobs.read(job_id, page(0, "eins"), page(1, "", PageStatus.FAILED, error=why), state=JobState.COMPLETED)
        rest = list(stream)
    assert [(one.event, one.id) for one in rest] == [
        ("progress", None),
        ("page", "0,2"),
        ("page", "0-2"),
        ("done", "done"),
    ]
    assert rest[2].data["error"] == "The page is damaged."
    assert (rest[3].data["id"], rest[3].data["status"], rest[3].data["progress"]) == (
        job_id,
        "completed",
        {"done": 3, "total": 3},
    )


def test_coming_back(client: httpx.Client, jobs: FakeJobs, job_id: str) -> None:
    jobs.read(job_id, page(0), page(1), page(2), state=JobState.COMPLETED)

    def pages(last: str | None) -> list[int]:
        return [one.data["index"] for one in all_of(client, job_id, last) if one.event == "page"]

    assert pages(None) == pages("") == pages("rubbish") == pages("2-") == pages("9" * 50) == [0, 1, 2]
    assert pages("0,2") == [1]
    assert pages("0-2") == pages("0-99") == []
    assert all_of(client, job_id, "0-2")[-1].event == "done"
    again = client.get(f"/ocr/{job_id}/events", headers={"Last-Event-ID": "done"})
    assert (again.status_code, again.content) == (204, b"")


@pytest.mark.parametrize("indices", [set(), {0}, {0, 1, 2}, {5, 7, 8, 9, 100}])
def test_ids_say_what_was_sent(indices: set[int]) -> None:
    assert events.decode(events.encode(indices)) == indices


def test_an_id_fits_a_header() -> None:
    indices = set(range(0, 4000, 2))
    text = events.encode(indices)
    assert 3900 < len(text) <= 4000 and text.endswith(str(max(events.decode(text))))
    assert events.decode(text) < indices


@pytest.mark.parametrize("text", ["x", "1,", "-1", "1-2-3", "0-9999999", "5-1", "٣"])
def test_other_ids_say_nothing(text: str) -> None:
    assert events.decode(text) == set()


def test_a_cancelled_job_ends_the_stream(client: httpx.Client, jobs: FakeJobs, job_id: str) -> None:
    with client.stream("GET", f"/ocr/{job_id}/events") as answer:
        stream = heard(answer.iter_lines())
        next(stream)
        httpx.post(f"{client.base_url}/ocr/{job_id}/cancel")
        told = list(stream)
    assert [one.event for one in told] == ["progress", "done"]
    assert (told[1].data["status"], told[1].data["cancelled"]) == ("failed", True)
    assert told[1].data["error"] == "The job was cancelled."


def test_a_deleted_job_ends_the_stream(client: httpx.Client, jobs: FakeJobs, job_id: str) -> None:
    with client.stream("GET", f"/ocr/{job_id}/events") as answer:
        stream = heard(answer.iter_lines())
        next(stream)
        jobs.delete(job_id)
        [told] = list(stream)
    assert told == Heard("done", {"id": job_id, "status": "failed", "error": "The job is not known any more."}, "done")


def test_the_stream_outlives_a_gap(
    client: httpx.Client, jobs: FakeJobs, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SILENCE", 0.1)
    with client.stream("GET", f"/ocr/{job_id}/events") as answer:
        stream = heard(answer.iter_lines())
        next(stream)
        jobs.down = JobsUnavailable("Redis cannot be reached.")
        assert next(stream) == next(stream) == Heard("comment", "ping", None)
        jobs.down = None
        jobs.read(job_id, page(0), page(1), page(2), state=JobState.COMPLETED)
        told = [one.event for one in stream if one.event != "comment"]
    assert told == ["progress", "page", "page", "page", "done"]


def test_a_client_that_goes_is_forgotten(client: httpx.Client, jobs: FakeJobs, job_id: str) -> None:
    with client.stream("GET", f"/ocr/{job_id}/events") as answer:
        next(answer.iter_lines())
    looked = threading.Event()
    get = jobs.get

    def noticed(wanted: str) -> Any:
        looked.set()
        return get(wanted)

    deadline = time.monotonic() + 5
    jobs.get = noticed  # type: ignore[method-assign]
    while time.monotonic() < deadline:
        looked.clear()
        if not looked.wait(0.2):
            return
    raise AssertionError("the job is still looked at")


def test_the_servers_end_ends_streams(jobs: FakeJobs, job_id: str) -> None:
    with serving(FakeService(), Settings(drain=0.2), jobs) as url:
        answers: list[str] = []
        seen = threading.Event()

        def follow() -> None:
            with httpx.Client(timeout=10) as client, client.stream("GET", f"{url}/ocr/{job_id}/events") as answer:
                for line in answer.iter_lines():
                    answers.append(line)
                    seen.set()

        thread = threading.Thread(target=follow)
        thread.start()
        assert seen.wait(5)
        started = time.monotonic()
    thread.join(5)
    assert not thread.is_alive() and time.monotonic() - started < 2
    assert "event: done" not in answers


def test_pages_that_were_read_in_one_prompt_are_looked_up_once(
    client: httpx.Client, jobs: FakeJobs, job_id: str
) -> None:
    looked: list[str] = []
    pages = jobs.pages

    def counted(wanted: str) -> Any:
        looked.append(wanted)
        return pages(wanted)

    jobs.pages = counted  # type: ignore[method-assign]
    with client.stream("GET", f"/ocr/{job_id}/events") as answer:
        stream = heard(answer.iter_lines())
        next(stream)
        jobs.results[job_id] = (page(0, following=(1,)),)
        jobs.change(job_id, state=JobState.PROCESSING, done=2)
        assert next(stream).data["done"] == 2
        assert next(stream).id == "0-1"
        time.sleep(0.2)
        assert looked == [job_id]
        jobs.read(job_id, page(2), state=JobState.COMPLETED)
        assert [(one.event, one.id) for one in stream][-2:] == [("page", "0-2"), ("done", "done")]
