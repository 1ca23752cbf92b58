"""What `Jobs` promises, on a real store and without an engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ocr_mlx.domain import OcrRequest, OcrResult, Upload
from ocr_mlx.errors import (
    EngineError,
    JobNotFound,
    PageOutOfRange,
    QueueFull,
    ShuttingDown,
    SourceForbidden,
    UnsupportedMedia,
)
from ocr_mlx.jobs.build import build_jobs
from ocr_mlx.jobs.local.store import SqliteStore
from ocr_mlx.jobs.options import JobOptions
from ocr_mlx.jobs.records import Job, JobRequest, JobState
from ocr_mlx.jobs.service import StoredJobs
from ocr_mlx.jobs.webhook import WebhookOptions, Webhooks
from tests.unit.jobs.made import a_page

PDF, PNG = b"%PDF-1.7", b"\x89PNG\r\n\x1a\n"
ASK = JobRequest(model="builtin", password="hunter2")


@dataclass
class Engine:
    """Says how many pages there are."""

    pages: tuple[int, ...] = (0, 1)
    refuse: Exception | None = None
    asked: list[OcrRequest] = field(default_factory=list)

    def inspect(self, request: OcrRequest) -> tuple[int, ...]:
        self.asked.append(request)
        if self.refuse:
            raise self.refuse
        return self.pages

    def run(self, *_args: object) -> OcrResult:
        raise NotImplementedError


@dataclass
class Work:
    """Remembers what it was told."""

    told: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.told.append("start")

    def submitted(self, job: Job) -> None:
        self.told.append(f"submitted {job.id}")

    def cancel(self, job_id: str) -> None:
        self.told.append(f"cancel {job_id}")

    def stop(self) -> None:
        self.told.append("stop")

    def close(self) -> None:
        self.told.append("close")


@dataclass
class Bench:
    folder: Path
    engine: Engine = field(default_factory=Engine)
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        self.store = SqliteStore(self.folder, most_waiting=2)
        webhooks = Webhooks(self.store, WebhookOptions())
        self.jobs = StoredJobs(self.store, lambda: self.engine, self.work, webhooks)

    def submit(self, data: bytes = PDF, **more: str) -> Job:
        return self.jobs.submit(data, ASK, filename="letter.pdf", engine="Nougat", **more)  # type: ignore[arg-type]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "jobs")
    yield made
    made.jobs.close()


def test_a_submitted_job_is_kept_and_told_of(bench: Bench) -> None:
    bench.engine.pages = (3, 1)
    job = bench.submit(pages="4,2")
    assert (job.kind, job.pages, job.engine, job.state) == ("pdf", (3, 1), "Nougat", JobState.PENDING)
    asked = bench.engine.asked[0]
    assert (asked.source, asked.page_range, asked.password) == (Upload(data=PDF, name="letter.pdf"), "4,2", "hunter2")
    assert bench.jobs.get(job.id) == job and bench.store.document(job.id) == PDF
    assert bench.work.told == [f"submitted {job.id}"]
    assert bench.submit(PNG).kind == "image"


@pytest.mark.parametrize(
    ("data", "expect", "words"),
    [
        (b"", "", "is empty"),
        (b"PK\x03\x04", "", "ZIP archive"),
        (b"hello", "pdf", "plain text"),
        (PDF, "image", "The file is a PDF; a picture is expected"),
        (PNG, "pdf", "The file is a picture; a PDF is expected"),
    ],
)
def test_what_is_not_wanted_is_refused_before_it_costs(bench: Bench, data: bytes, expect: str, words: str) -> None:
    with pytest.raises(UnsupportedMedia, match=words):
        bench.submit(data, expect=expect)
    assert bench.engine.asked == [] and bench.jobs.listed() == ()


def test_a_bad_document_a_bad_address_and_a_full_queue_leave_nothing(bench: Bench) -> None:
    with pytest.raises(SourceForbidden, match="private network"):
        bench.submit(webhook_url="http://127.0.0.1/")
    bench.engine.refuse = PageOutOfRange("There is no page 0.")
    with pytest.raises(PageOutOfRange):
        bench.submit()
    assert not bench.folder.exists()
    bench.engine.refuse = None
    bench.submit(), bench.submit()
    with pytest.raises(QueueFull):
        bench.submit()
    assert len(list((bench.folder / "documents").iterdir())) == 2


def test_a_name_that_is_no_text_is_made_one(bench: Bench) -> None:
    job = bench.jobs.submit(PDF, ASK, filename="a\ud800.pdf", engine="x")
    assert bench.jobs.get(job.id).filename == "a?.pdf"


def test_cancel_ends_a_job_once(bench: Bench) -> None:
    job = bench.submit()
    bench.store.put_page(job.id, a_page(0))
    cancelled = bench.jobs.cancel(job.id)
    assert cancelled.state is JobState.CANCELLED and cancelled.error is not None
    assert cancelled.error.message == "The job was cancelled." and len(bench.jobs.pages(job.id)) == 1
    assert bench.jobs.cancel(job.id) == cancelled
    assert bench.work.told.count(f"cancel {job.id}") == 1
    with pytest.raises(JobNotFound):
        bench.jobs.cancel("nobody")


def test_delete_forgets_a_job_that_is_read(bench: Bench) -> None:
    job = bench.submit()
    bench.jobs.delete(job.id)
    assert f"cancel {job.id}" in bench.work.told and bench.jobs.listed() == ()
    for call in (bench.jobs.get, bench.jobs.pages, bench.jobs.delete):
        with pytest.raises(JobNotFound):
            call(job.id)


def test_a_broken_folder_does_not_stop_requests_that_are_no_jobs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.jobs.set_current_model("got")
    assert bench.jobs.current_model() == "got"

    def broken(_store: SqliteStore) -> str:
        raise EngineError("Jobs cannot be kept here now.")

    monkeypatch.setattr(SqliteStore, "current_model", broken)
    assert bench.jobs.current_model() == "got"


def test_after_the_end_nothing_is_taken(bench: Bench) -> None:
    assert bench.jobs.healthy() and not bench.jobs.is_remote
    bench.jobs.stop()
    assert not bench.jobs.healthy()
    with pytest.raises(ShuttingDown):
        bench.submit()


def test_what_the_options_build(tmp_path: Path) -> None:
    def engine() -> Engine:
        raise AssertionError("there is no work")

    jobs = build_jobs(JobOptions(folder=tmp_path / "jobs", webhook_secret="sesame"), engine)
    assert jobs.current_model() is None and not jobs.is_remote
    jobs.start()
    jobs.set_current_model("got")
    jobs.close()
    again = build_jobs(JobOptions(folder=tmp_path / "jobs"), engine)
    assert again.current_model() == "got" and again.healthy()
    again.close()
    assert "sesame" not in repr(JobOptions(folder=tmp_path, webhook_secret="sesame"))
