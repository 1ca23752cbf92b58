"""Contract 3 over a real socket: documents that are read later."""

from __future__ import annotations

import io
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from ocr_mlx.domain import UNSET, PageError, PageResult, PageStatus, Upload
from ocr_mlx.errors import (
    BadImage,
    BadPdf,
    EngineError,
    JobsUnavailable,
    OcrMlxError,
    PageOutOfRange,
    PdfLocked,
    QueueFull,
    ShuttingDown,
    SourceForbidden,
    SourceTooLarge,
    UnsupportedMedia,
)
from ocr_mlx.jobs.records import Delivery, JobRequest, JobState
from ocr_mlx.settings import Settings
from tests.wire.fake_jobs import FakeJobs
from tests.wire.fakes import FakeService, page, serving

SETTINGS = Settings(contract="jobs", job_image_mb=0.05, max_file_mb=1, offline=True)
UNKNOWN = "00000000-0000-4000-8000-000000000000"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")


def picture(kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(out, kind)
    return out.getvalue()


PNG, PDF = picture(), picture("PDF")


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[FakeJobs, httpx.Client]]:
    jobs = FakeJobs()
    with serving(FakeService(), SETTINGS, jobs) as url, httpx.Client(base_url=url) as client:
        yield jobs, client


@pytest.fixture
def jobs(running: tuple[FakeJobs, httpx.Client]) -> FakeJobs:
    fresh, used = FakeJobs(), running[0]
    used.__dict__.update(fresh.__dict__)
    return used


@pytest.fixture
def client(running: tuple[FakeJobs, httpx.Client], jobs: FakeJobs) -> httpx.Client:
    return running[1]


def send(client: httpx.Client, data: bytes = PNG, name: str = "page.png", to: str = "/ocr", **form: str) -> Any:
    return client.post(to, files={"file": (name, data)}, data=form)


def submitted(client: httpx.Client, **form: str) -> str:
    answer = send(client, **form)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


# --- submitting ------------------------------------------------------------------------------------------------------


def test_a_picture_is_taken(client: httpx.Client, jobs: FakeJobs) -> None:
    answer = send(client)
    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/json")
    [job_id] = jobs.kept
    assert answer.json() == {"job_id": job_id, "message": "Image submitted for processing with 'qari' engine"}
    [request] = jobs.asked
    assert request.source == Upload(data=PNG, name="page.png")
    assert (request.model, request.dpi, request.password) == ("qari", None, None)
    assert request.overrides.max_new_tokens is UNSET
    assert jobs.said == [{"engine": "qari", "pages": "", "webhook_url": "", "expect": "image"}]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_signatures_count_not_names_or_types(client: httpx.Client, kind: str) -> None:
    answer = client.post("/ocr", files={"file": ("x.bin", picture(kind), "text/plain")})
    assert answer.status_code == 202


@pytest.mark.parametrize("to", ["/ocr", "/ocr/pdf"])
def test_pdfs_are_taken_at_both_doors(client: httpx.Client, jobs: FakeJobs, to: str) -> None:
    jobs.selected = (0, 1)
    answer = send(client, PDF, "a.pdf", to, engine="got")
    assert answer.status_code == 202
    assert answer.json()["message"] == "PDF with 2 pages submitted for processing with 'got' engine"
    assert jobs.said[0]["expect"] == "pdf"
    assert jobs.asked[0].dpi == (300 if to == "/ocr/pdf" else None)


def test_one_page_is_a_page(client: httpx.Client) -> None:
    assert send(client, PDF, to="/ocr/pdf").json()["message"].startswith("PDF with 1 page submitted")


def test_everything_said_arrives(client: httpx.Client, jobs: FakeJobs) -> None:
    form = {
        "engine": "deepseek",
        "webhook_url": "https://example.com/hook",
        "mode": "gundam",
        "prompt": "Read\r\nall.",
        "pages": "1-2",
        "password": "secret",
        "dpi": "72",
        "max_tokens": "7",
    }
    assert send(client, PDF, to="/ocr/pdf", **form).status_code == 202
    [request] = jobs.asked
    assert (request.model, request.prompt.mode, request.prompt.text) == ("deepseek", "gundam", "Read\nall.")
    assert (request.password, request.dpi, request.overrides.max_new_tokens) == ("secret", 72, 7)
    assert jobs.said[0] == {
        "engine": "deepseek",
        "pages": "1-2",
        "webhook_url": "https://example.com/hook",
        "expect": "pdf",
    }


def test_the_other_services_names_of_the_fields(client: httpx.Client, jobs: FakeJobs) -> None:
    answer = client.post("/ocr", files={"image": ("page.png", PNG)}, data={"model": "got"})
    assert answer.json()["message"] == "Image submitted for processing with 'got' engine"
    assert jobs.asked[0].model == "got"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("GOT", "got"),
        ("stepfun-ai/GOT-OCR-2.0-hf", "got"),
        ("deepseek-ai/DeepSeek-OCR-2", "deepseek-ai/DeepSeek-OCR-2"),
    ],
)
def test_a_model_has_more_than_one_name(client: httpx.Client, said: str, name: str) -> None:
    assert send(client, engine=said).json()["message"].endswith(f"'{name}' engine")


def test_the_model_that_was_switched_to(client: httpx.Client, jobs: FakeJobs) -> None:
    jobs.current = "lighton"
    assert send(client).json()["message"].endswith("'lighton' engine")
    assert jobs.asked[0].model == "lighton"


def test_no_form_goes_to_the_text_service(client: httpx.Client, jobs: FakeJobs) -> None:
    assert client.post("/ocr", json={"filename": "data:image/png;base64,eA=="}).text == "Hello"
    assert client.post("/ocr").status_code == 422
    assert client.get("/ocr").status_code == client.get("/ocr/pdf").status_code == 405
    assert not jobs.kept


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "to", "detail"),
    [
        (b"", "/ocr", "Invalid image file: File is empty"),
        (b"hello", "/ocr", "Invalid image file: Unknown or unsupported file type"),
        (b"", "/ocr/pdf", "Invalid PDF file: File is empty"),
        (b"hello", "/ocr/pdf", "Invalid PDF file: Unknown or unsupported file type"),
        (PNG, "/ocr/pdf", "Invalid PDF file: File type mismatch: expected PDF, detected PNG."),
    ],
)
def test_files_that_are_none(client: httpx.Client, jobs: FakeJobs, data: bytes, to: str, detail: str) -> None:
    answer = send(client, data, to=to)
    assert (answer.status_code, answer.headers["x-ocr-mlx-error"]) == (400, "unsupported_media")
    assert answer.json()["detail"].startswith(detail) and answer.json().keys() == {"detail"}
    assert not jobs.kept


@pytest.mark.parametrize(
    ("data", "to", "detail"),
    [
        (PNG + bytes(60_000), "/ocr", "Invalid image file: File too large: 0.1MB (max 0.05MB)"),
        (PDF + bytes(1_200_000), "/ocr", "Invalid PDF file: File too large: 1.1MB (max 1MB)"),
        (PDF + bytes(1_200_000), "/ocr/pdf", "Invalid PDF file: File too large: 1.1MB (max 1MB)"),
    ],
)
def test_files_that_are_too_large(client: httpx.Client, data: bytes, to: str, detail: str) -> None:
    answer = send(client, data, to=to)
    assert (answer.status_code, answer.json()) == (413, {"detail": detail})


def test_a_body_beyond_all_limits(client: httpx.Client) -> None:
    answer = send(client, PNG + bytes(3_000_000))
    assert answer.status_code == 413 and isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize(
    ("problem", "status", "detail"),
    [
        (BadImage("The image is damaged."), 400, "Invalid image file: File is not a valid image"),
        (SourceTooLarge("Too many pixels.", hint="Scale it."), 413, "Invalid image file: Too many pixels. Scale it."),
        (UnsupportedMedia("No picture."), 400, "Invalid image file: No picture."),
        (PageOutOfRange("No page 9.", hint="It has 2."), 400, "No page 9. It has 2."),
        (SourceForbidden("Not to a private address."), 400, "Not to a private address."),
        (QueueFull("1000 jobs wait."), 429, "1000 jobs wait."),
        (ShuttingDown("Ending."), 503, "Ending."),
    ],
)
def test_what_opening_finds(
    client: httpx.Client, jobs: FakeJobs, problem: OcrMlxError, status: int, detail: str
) -> None:
    jobs.refuse = problem
    answer = send(client)
    assert (answer.status_code, answer.json()) == (status, {"detail": detail})
    assert answer.headers["x-ocr-mlx-error"] == problem.code
    assert ("retry-after" in answer.headers) == (status in (429, 503))


@pytest.mark.parametrize("problem", [PdfLocked("It wants a password."), BadPdf("It is damaged.")])
def test_what_opening_a_pdf_finds(client: httpx.Client, jobs: FakeJobs, problem: OcrMlxError) -> None:
    jobs.refuse = problem
    answer = send(client, PDF, to="/ocr/pdf")
    assert (answer.status_code, answer.json()) == (400, {"detail": f"Invalid PDF file: {problem}"})


@pytest.mark.parametrize("dpi", ["71", "601", "0", "-1", "99999999999999999999"])
@pytest.mark.parametrize("to", ["/ocr", "/ocr/pdf"])
def test_resolutions_out_of_range(client: httpx.Client, dpi: str, to: str) -> None:
    answer = send(client, PDF, to=to, dpi=dpi)
    assert (answer.status_code, answer.json()) == (400, {"detail": "DPI must be between 72 and 600"})


@pytest.mark.parametrize("name", ["../../etc/passwd", "..\\x.png", ".htaccess", "a/.hidden.png", "..", "a/../b.png"])
def test_names_that_point_elsewhere(client: httpx.Client, name: str) -> None:
    answer = send(client, name=name)
    assert (answer.status_code, answer.json()) == (400, {"detail": "Invalid filename: Invalid filename pattern"})


@pytest.mark.parametrize(("name", "kept"), [("scan..1.png", "scan..1.png"), ("C:\\me\\a b.png", "a b.png")])
def test_other_names_are_fine(client: httpx.Client, jobs: FakeJobs, name: str, kept: str) -> None:
    assert client.get(f"/ocr/{submitted(client, name=name)}").json()["filename"] == kept


@pytest.mark.parametrize("engine", ["zzz", "/etc", "../x", "some/folder/deep", "nobody/nothing", "a b", "\x00"])
def test_models_that_nobody_knows(client: httpx.Client, jobs: FakeJobs, engine: str) -> None:
    answer = send(client, engine=engine)
    assert answer.status_code == 400
    assert answer.json() == {
        "detail": f"Model '{engine.strip().replace(chr(0), '?')}' is not registered. Check /models for available models."
    }
    assert not jobs.kept


def test_modes_that_the_model_does_not_have(client: httpx.Client) -> None:
    answer = send(client, engine="got", mode="zzz")
    assert answer.status_code == 400 and answer.json()["detail"].startswith("The model has no mode 'zzz'. Known modes:")


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"dpi": "high"}, "dpi"),
        ({"max_tokens": "0"}, "max_tokens"),
        ({"webhook_url": "x" * 2001}, "webhook_url"),
        ({"prompt": "x" * 20_001}, "prompt"),
        ({"engine": "x" * 301}, "engine"),
        ({"password": "x" * 1001}, "password"),
    ],
)
def test_fields_of_the_wrong_kind(client: httpx.Client, form: dict[str, str], field: str) -> None:
    answer = send(client, **form)
    assert answer.status_code == 422
    [violation] = answer.json()["detail"]
    assert violation["loc"] == ["body", field]
    assert "x" * 1000 not in answer.text


@pytest.mark.parametrize("to", ["/ocr", "/ocr/pdf"])
def test_a_missing_file(client: httpx.Client, to: str) -> None:
    for body in ({"files": {"other": ("x", b"x")}}, {"files": {"engine": (None, "got")}}):
        answer = client.post(to, **body)  # type: ignore[arg-type]
        assert answer.status_code == 422
        assert [(one["type"], one["loc"]) for one in answer.json()["detail"]] == [("missing", ["body", "file"])]


@pytest.mark.parametrize("to", ["/ocr", "/ocr/pdf"])
def test_a_file_that_is_a_mere_field(client: httpx.Client, to: str) -> None:
    answer = client.post(to, files={"file": (None, "text")})
    assert answer.status_code == 422
    assert "<class" not in answer.text and "UploadFile" not in answer.text


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"garbage", "multipart/form-data"),
        (b"garbage", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data; name=", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data; boundary=x"),
        (b"--x--\r\n", "multipart/form-data; boundary=x"),
    ],
)
def test_forms_that_are_none(client: httpx.Client, body: bytes, kind: str) -> None:
    answer = client.post("/ocr", content=body, headers={"Content-Type": kind})
    assert answer.status_code in (400, 422) and answer.json().keys() == {"detail"}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream"])
def test_bodies_of_other_types(client: httpx.Client, kind: str) -> None:
    for to in ("/ocr", "/ocr/pdf"):
        assert client.post(to, content=b"x", headers={"Content-Type": kind}).status_code == 415


def test_json_at_the_pdf_door(client: httpx.Client) -> None:
    answer = client.post("/ocr/pdf", json={"file": "x"})
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["body", "file"]


def test_pages_of_other_sites_submit_nothing(client: httpx.Client, jobs: FakeJobs) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post("/ocr", files={"file": ("a.png", PNG)}, headers=headers).status_code == 403
    assert not jobs.kept


def test_other_methods_are_told_which_there_are(client: httpx.Client) -> None:
    def allowed(path: str) -> tuple[int, str]:
        answer = client.put(path, json={})
        return answer.status_code, answer.headers["allow"]

    assert allowed("/ocr") == allowed("/ocr/pdf") == (405, "POST")
    assert allowed(f"/ocr/{UNKNOWN}") == (405, "DELETE, GET")
    assert allowed("/models/switch") == (405, "POST")


# --- asking ----------------------------------------------------------------------------------------------------------


def test_a_job_before_and_while_it_is_read(client: httpx.Client, jobs: FakeJobs) -> None:
    jobs.selected = (0, 1)
    job_id = submitted(client)
    answer = client.get(f"/ocr/{job_id}").json()
    assert STAMP.fullmatch(answer.pop("created_at")) and STAMP.fullmatch(answer.pop("updated_at"))
    assert answer == {
        "id": job_id,
        "status": "pending",
        "filename": "page.png",
        "result": None,
        "error": None,
        "kind": "image",
        "engine": "qari",
        "cancelled": False,
        "started_at": None,
        "finished_at": None,
        "progress": {"done": 0, "total": 2},
        "pages": [],
        "webhook": None,
    }
    jobs.read(job_id, page(0), state=JobState.PROCESSING)
    answer = client.get(f"/ocr/{job_id}").json()
    assert (answer["status"], answer["progress"], answer["result"]) == ("processing", {"done": 1, "total": 2}, None)
    assert answer["pages"] == [{"index": 0, "page_number": 1, "following": [], "status": "ok", "error": None}]


def test_times_are_utc_without_a_zone(client: httpx.Client, jobs: FakeJobs) -> None:
    job_id = submitted(client)
    jobs.change(job_id)
    jobs.kept[job_id] = jobs.change(job_id, created=0.0, started=1.5)
    answer = client.get(f"/ocr/{job_id}").json()
    assert (answer["created_at"], answer["started_at"]) == ("1970-01-01T00:00:00.000000", "1970-01-01T00:00:01.500000")


def test_a_completed_job(client: httpx.Client, jobs: FakeJobs) -> None:
    job_id = submitted(client)
    jobs.read(job_id, page(0, "Grüße", confidence=0.5), state=JobState.COMPLETED, finished=time.time())
    answer = client.get(f"/ocr/{job_id}").json()
    assert (answer["status"], answer["error"]) == ("completed", None)
    assert answer["result"]["text"] == "Grüße"
    assert answer["result"].keys() >= {"text", "formatted_text", "output_file_base64", "confidence", "metadata"}
    assert answer["result"]["confidence"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("got", "got"),
        ("facebook/nougat-base", "facebook/nougat-base"),
        ("/srv/models/mine", "mine"),
        ("openai+http://gpu.lan:8000/v1#lightonai/LightOnOCR-2-1B", "lightonai/LightOnOCR-2-1B"),
    ],
)
def test_which_model_read_and_not_where(client: httpx.Client, jobs: FakeJobs, model: str, told: str) -> None:
    job_id = submitted(client)
    jobs.change(job_id, request=JobRequest(model=model))
    jobs.read(job_id, page(), state=JobState.COMPLETED)
    answer = client.get(f"/ocr/{job_id}")
    assert answer.json()["result"]["metadata"]["model_id"] == told
    assert "/srv" not in answer.text and "gpu.lan" not in answer.text


def test_failed_and_cancelled_jobs(client: httpx.Client, jobs: FakeJobs) -> None:
    failed, cancelled = submitted(client), submitted(client)
    why = PageError(code="timed_out", message="It took too long.")
    bad = PageResult(index=0, status=PageStatus.FAILED, error=why)
    jobs.read(failed, bad, state=JobState.FAILED, error=why)
    answer = client.get(f"/ocr/{failed}").json()
    assert (answer["status"], answer["error"], answer["cancelled"]) == ("failed", "It took too long.", False)
    assert answer["result"] is None and answer["pages"][0]["error"] == "It took too long."
    answer = client.post(f"/ocr/{cancelled}/cancel")
    assert answer.status_code == 200 and answer.json() == client.get(f"/ocr/{cancelled}").json()
    told = {key: answer.json()[key] for key in ("status", "error", "cancelled", "result")}
    assert told == {"status": "failed", "error": "The job was cancelled.", "cancelled": True, "result": None}
    assert client.post(f"/ocr/{failed}/cancel").json()["error"] == "It took too long."


def test_the_webhooks_fate(client: httpx.Client, jobs: FakeJobs) -> None:
    job_id = submitted(client, webhook_url="http://example.com/?secret")
    fate = Delivery(state="failed", attempts=3, status=500, message="It answered 500.")
    jobs.change(job_id, delivery=fate)
    answer = client.get(f"/ocr/{job_id}")
    assert answer.json()["webhook"] == {
        "state": "failed",
        "attempts": 3,
        "status": 500,
        "message": "It answered 500.",
        "next_at": None,
        "delivered_at": None,
    }
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "job_id", [UNKNOWN, "zzz", "..%2f..%2fetc", "%00", UNKNOWN.upper(), "x" * 3000, "%F0%9F%98%80"]
)
@pytest.mark.parametrize(("method", "more"), [("GET", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/events")])
def test_jobs_that_nobody_knows(client: httpx.Client, method: str, more: str, job_id: str) -> None:
    answer = client.request(method, f"/ocr/{job_id}{more}")
    assert answer.status_code == 404 and answer.json()["detail"] in ("Job not found", "Not Found")
    if "%2f" not in job_id:
        assert answer.json() == {"detail": "Job not found"}


def test_delete(client: httpx.Client) -> None:
    job_id = submitted(client)
    answer = client.delete(f"/ocr/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.get(f"/ocr/{job_id}").status_code == 404


def test_list(client: httpx.Client, jobs: FakeJobs) -> None:
    ids = [submitted(client) for _ in range(4)]
    for age, job_id in enumerate(ids):
        jobs.change(job_id, created=1000.0 + age)
    jobs.change(ids[0], state=JobState.FAILED)
    jobs.change(ids[1], state=JobState.CANCELLED)
    jobs.read(ids[2], page(), state=JobState.COMPLETED)

    def listed(**query: str | int) -> list[str]:
        return [job["id"] for job in client.get("/jobs", params=query).json()["jobs"]]

    assert listed() == ids[::-1]
    assert listed(limit=2) == ids[:1:-1]
    assert listed(status="failed") == [ids[1], ids[0]]
    assert listed(status="cancelled") == [ids[1]]
    assert listed(status="pending") == [ids[3]]
    [done] = client.get("/jobs", params={"status": "completed"}).json()["jobs"]
    assert done["progress"] == {"done": 1, "total": 1} and "result" not in done and "pages" not in done


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "status=zzz", "limit=99999999999999999999"])
def test_lists_that_cannot_be(client: httpx.Client, query: str) -> None:
    assert client.get(f"/jobs?{query}").status_code == 422


def test_while_the_jobs_are_away(client: httpx.Client, jobs: FakeJobs) -> None:
    job_id = submitted(client)
    jobs.down = JobsUnavailable("Redis cannot be reached.", hint="Try again in a moment.")
    calls = [
        send(client),
        send(client, engine="got"),
        send(client, PDF, to="/ocr/pdf"),
        client.get(f"/ocr/{job_id}"),
        client.get(f"/ocr/{job_id}/events"),
        client.post(f"/ocr/{job_id}/cancel"),
        client.delete(f"/ocr/{job_id}"),
        client.get("/jobs"),
        client.get("/models"),
        client.get("/models/current"),
        client.post("/models/switch", json={"model": "got"}),
    ]
    for answer in calls:
        assert answer.status_code == 503 and "retry-after" in answer.headers
        assert answer.json() == {"detail": "Redis cannot be reached. Try again in a moment."}
    assert client.get("/livez").status_code == 200


def test_clients_that_go_while_they_send(client: httpx.Client, jobs: FakeJobs) -> None:
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80)) as half:
        half.sendall(
            f"POST /ocr HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nContent-Length: 1000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode()
        )
    assert send(client).status_code == 202 and len(jobs.kept) == 1


def test_nothing_runs_on_the_event_loop(client: httpx.Client, jobs: FakeJobs) -> None:
    """Slow jobs hold up nobody but their own caller."""
    job_id = submitted(client)
    get = jobs.get

    def slow(wanted: str) -> Any:
        time.sleep(0.5)
        return get(wanted)

    jobs.get = slow  # type: ignore[method-assign]
    try:
        with httpx.Client(base_url=client.base_url) as other:
            import threading

            waiting = threading.Thread(target=other.get, args=(f"/ocr/{job_id}",))
            waiting.start()
            time.sleep(0.05)
            started = time.monotonic()
            assert client.get("/livez").status_code == 200
            assert time.monotonic() - started < 0.3
            waiting.join()
    finally:
        del jobs.get


def test_errors_of_the_engine_are_no_secret(client: httpx.Client, jobs: FakeJobs) -> None:
    jobs.refuse = EngineError("The engine cannot start.", hint="`ocr_mlx doctor` says what is missing.")
    answer = send(client)
    assert answer.status_code == 500 and answer.json()["detail"].endswith("says what is missing.")
