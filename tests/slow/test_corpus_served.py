"""All of a folder of real and hostile documents through the running server, four clients at once.

The folder and what each of its files must give are those of `test_corpus.py`; without the folder these tests are skipped.
Every file is asked for as `file://`; a quarter each also as `data:`, in a chat, as a job and at `/api/inference`. Meanwhile
another process asks `/livez`, and the server's memory is looked at. `-s` shows the figures. Every fifth file is taken, which is
a minute and a half; OCR_MLX_TEST_CORPUS_EVERY=1 takes all.
"""

from __future__ import annotations

import base64
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from scripts.soaking.watch import Livez, Sample, Watch, share

from ocr_mlx import errors
from ocr_mlx.server.errors import kind_of_code, status_of_code
from tests.process.program import Program
from tests.slow.test_corpus import CORPUS, OUTCOMES, PASSWORD, read_table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples" / "page.png"
CLIENTS = 4
EVERY = int(os.environ.get("OCR_MLX_TEST_CORPUS_EVERY", "5"))
TOKENS = 8
MOST_BYTES = 8 * 2**20
"""Larger files are asked for as `file://` only."""
WAIT = 600.0
NO_TEXT = (errors.DecodeError.code, errors.InvalidOption.code)
"""What is said of a page of which the few tokens allowed here left no text."""
GIGABYTE = 1024**3
READ = {"ok", "blank", "truncated", "loop_stopped", "loop_recovered"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.skipif(not (CORPUS / "MANIFEST.tsv").exists(), reason=f"no corpus at {CORPUS} (set OCR_MLX_CORPUS)"),
]


# --- what must come out ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A file, the pages asked for, and what they must give: `code` for the document, `bad` codes by page from 1."""

    path: str
    password: str | None
    code: str = ""
    pages: str = ""
    count: int = 0
    bad: dict[int, str] = field(default_factory=dict)

    @property
    def failing(self) -> str:
        """The code with which the whole of it fails, however many tokens may be said."""
        whole = self.count and len(self.bad) == self.count
        return self.bad[1] if whole else self.code

    @property
    def file(self) -> Path:
        """Where it is."""
        return CORPUS / self.path


def case(path: str, outcome: str, password: str | None) -> Case:
    """From a row of the table: `image 3 640x480`, `pdf 12 612x792 2:bad_pdf`, or a code."""
    first, *rest = outcome.split()
    if not rest:
        return Case(path=path, password=password, code=first)
    count = min(int(rest[0]), 2)
    bad = {int(page): code for page, _, code in (one.partition(":") for one in rest[2:]) if int(page) <= count}
    return Case(path=path, password=password, pages=f"1-{count}", count=count, bad=bad)


def cases() -> list[Case]:
    """All files, those with a password three times: with it, without, and with another."""
    told = {row["path"]: PASSWORD.search(row["notes"]) for row in read_table(CORPUS / "MANIFEST.tsv")}
    found: list[Case] = []
    for row in read_table(OUTCOMES)[::EVERY]:
        known = told[row["path"]]
        found.append(case(row["path"], row["outcome"], known[1] if known else None))
        if known:
            found += [case(row["path"], errors.PdfLocked.code, wrong) for wrong in (None, "not the password")]
    return found


# --- how it is asked for ---------------------------------------------------------------------------------------------


def fields(one: Case) -> dict[str, Any]:
    asked = {"max_tokens": TOKENS, "pages": one.pages, "password": one.password}
    return {name: value for name, value in asked.items() if value}


def judged(one: Case, answer: httpx.Response, status: Callable[[str], int]) -> str:
    """What is wrong with an answer, empty where nothing is; `status` is what a code becomes at this route."""
    code, got = answer.headers.get("x-ocr-mlx-error", ""), answer.status_code
    if one.failing:
        wanted = (status(one.failing), one.failing)
        return "" if (got, code) == wanted else f"{wanted} wanted, {(got, code)}: {answer.text[:200]}"
    if got == 200 or (code in (*NO_TEXT, *one.bad.values()) and got == status(code)):
        return ""
    return f"{got} {code}: {answer.text[:200]}"


def as_file(http: httpx.Client, one: Case) -> str:
    return told_pages(one, http.post("/ocr", json={"filename": one.file.as_uri(), "model": "builtin", **fields(one)}))


def as_data(http: httpx.Client, one: Case) -> str:
    return told_pages(one, http.post("/ocr", json={"filename": data_uri(one), "model": "builtin", **fields(one)}))


def told_pages(one: Case, answer: httpx.Response) -> str:
    """The same, and what became of each page."""
    if problem := judged(one, answer, status_of_code):
        return problem
    statuses = answer.headers.get("x-ocr-mlx-status", "").split(",")
    wanted = ["failed" if page in one.bad else "read" for page in range(1, one.count + 1)]
    if one.count and ["read" if status in READ else status for status in statuses] != wanted:
        return f"{wanted} wanted, {statuses}"
    return ""


def as_chat(http: httpx.Client, one: Case) -> str:
    if one.file.suffix.lower() == ".pdf":
        part: dict[str, Any] = {"type": "file", "file": {"file_data": data_uri(one), "filename": "document.pdf"}}
    else:
        part = {"type": "image_url", "image_url": {"url": data_uri(one)}}
    body = {"model": "builtin", "messages": [{"role": "user", "content": [part]}], **fields(one)}
    return judged(one, http.post("/v1/chat/completions", json=body), chat_status)


def chat_status(code: str) -> int:
    kind = kind_of_code(code)
    asked_wrong = issubclass(kind, errors.SourceError | errors.PageError | errors.InvalidOption)
    return 400 if asked_wrong and not issubclass(kind, errors.SourceTooLarge) else status_of_code(code)


def as_upload(http: httpx.Client, one: Case) -> str:
    answer = http.post("/api/inference", files={"file": ("document", one.file.read_bytes())}, data=fields(one))
    if not one.file.stat().st_size:
        return "" if (answer.status_code, answer.text) == (400, '{"detail":"Empty file"}') else answer.text
    return judged(one, answer, upload_status)


def upload_status(code: str) -> int:
    kind = kind_of_code(code)
    if issubclass(kind, errors.SourceTooLarge):
        return 413
    return 400 if issubclass(kind, errors.SourceError | errors.PageError) else status_of_code(code)


def as_job(http: httpx.Client, one: Case) -> str:
    data = {**fields(one), "engine": "builtin"}
    answer = http.post("/ocr", files={"file": ("document", one.file.read_bytes())}, data=data)
    if one.code:
        return judged(one, answer, upload_status)
    if answer.status_code != 202:
        return f"202 wanted, {answer.status_code}: {answer.text[:200]}"
    job = ended(http, answer.json()["job_id"])
    statuses = {page["page_number"]: page["status"] for page in job["pages"]}
    wrong = {page: got for page, got in statuses.items() if (got == "failed") != (page in one.bad)}
    if (
        wrong
        or len(statuses) != one.count
        or (job["status"] != "completed" and not (one.bad or "text" in job["error"]))
    ):
        return f"{job['status']} {job['error']}: {statuses}"
    return ""


def ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT
    while (job := http.get(f"/ocr/{job_id}").json())["status"] in ("pending", "processing"):
        assert time.monotonic() < deadline, "the job does not end"
        time.sleep(0.1)
    assert isinstance(job, dict)
    return job


def data_uri(one: Case) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(one.file.read_bytes()).decode()


Way = Callable[[httpx.Client, Case], str]
OTHERS: tuple[Way, ...] = (as_data, as_chat, as_upload, as_job)


def plan() -> list[tuple[Way, Case]]:
    """Every case as a file, and where it is not too large one other way; in an order that is the same every time."""
    found = cases()
    planned: list[tuple[Way, Case]] = [(as_file, one) for one in found]
    small = [one for one in found if one.file.stat().st_size <= MOST_BYTES]
    # An empty data: URI is refused as an address before anybody looks at what it holds.
    planned += [
        (OTHERS[i % 4], one) for i, one in enumerate(small) if one.file.stat().st_size or OTHERS[i % 4] == as_upload
    ]
    random.Random(1).shuffle(planned)
    return planned


# --- the run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What came of it. `state` is what /metrics says once nothing is asked for any more."""

    wrong: list[str]
    answers: Counter[str]
    seconds: float
    slowest: list[tuple[float, str]]
    livez: Livez
    samples: list[Sample]
    before: Sample
    after: Sample
    state: dict[str, float]
    texts: tuple[str, str]
    status: int
    left: list[psutil.Process]


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pass]:
    folder = tmp_path_factory.mktemp("state")
    environ = {"OCR_MLX_MODEL": "builtin", "OCR_MLX_KEEP_ALIVE": "1", "OCR_MLX_LOG_LEVEL": "error"}
    command = [sys.executable, "-m", "ocr_mlx.endpoint", "--port", "0"]
    program = Program(command, folder, environ, stdin=subprocess.DEVNULL)
    try:
        url = program.ready()["url"]
        with httpx.Client(base_url=url, timeout=WAIT) as http:
            made = run(http, url, program)
        show(made)
        yield made
    finally:
        with program.process:
            program.process.kill()


def run(http: httpx.Client, url: str, program: Program) -> Pass:
    first = warm(http, url)
    idle(http)
    began = time.monotonic()
    took: list[tuple[float, str]] = []
    wrong: list[str] = []
    answers: Counter[str] = Counter()

    def one(task: tuple[Way, Case]) -> None:
        way, asked = task
        started = time.monotonic()
        try:
            with httpx.Client(base_url=url, timeout=WAIT) as client:
                problem = way(client, asked)
        except httpx.TransportError as error:
            problem = f"{type(error).__name__} after {time.monotonic() - started:.0f} s"
        took.append((time.monotonic() - started, f"{way.__name__} {asked.path}"))
        answers[f"{way.__name__} {asked.failing or 'read'}"] += 1
        if problem:
            wrong.append(f"{way.__name__} {asked.path} (password: {asked.password}): {problem}")

    with Watch(program.process.pid, every=0.1) as watch:
        before = watch.now()
        with Livez(url, every=0.02) as livez, ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(one, plan()))
        state = idle(http)
        after = watch.now()
    last = read(http)
    children = watch.process.children(recursive=True)
    program.process.send_signal(signal.SIGTERM)
    return Pass(
        wrong=wrong,
        answers=answers,
        seconds=time.monotonic() - began,
        slowest=sorted(took, reverse=True)[:5],
        livez=livez,
        samples=watch.samples,
        before=before,
        after=after,
        state=state,
        texts=(first, last),
        status=program.ends(),
        left=psutil.wait_procs(children, timeout=5)[1],
    )


def read(http: httpx.Client) -> str:
    answer = http.post("/ocr", json={"filename": PAGE.as_uri(), "model": "builtin", "fresh": True})
    assert answer.status_code == 200, answer.text
    return answer.text


def warm(http: httpx.Client, url: str) -> str:
    """Everything is in place that stays: the engine, the threads of as many clients, the processes that draw pages."""
    known = cases()
    some = [one for one in known if one.count and not one.bad and one.password is None]
    pdfs = [one for one in some if one.path.endswith(".pdf")][:CLIENTS]
    pictures = [one for one in some if one.path.endswith(".png")][:CLIENTS]

    def ask(one: Case) -> str:
        with httpx.Client(base_url=url, timeout=WAIT) as client:
            return as_file(client, one) or as_job(client, one)

    with ThreadPoolExecutor(CLIENTS) as pool:
        problems = [problem for problem in pool.map(ask, [*pdfs, *pictures]) if problem]
    assert not problems, problems
    return read(http)


STATE = re.compile(r"^ocr_mlx_(documents_in_work|rows_waiting|models_in_memory|kv_cache_bytes) (\S+)$", re.MULTILINE)


def idle(http: httpx.Client) -> dict[str, float]:
    """What /metrics says once nothing is left to do, or after half a minute."""
    deadline = time.monotonic() + 30
    while True:
        told = {name: float(value) for name, value in STATE.findall(http.get("/metrics").text)}
        if not any(told.values()) or time.monotonic() > deadline:
            return told
        time.sleep(0.2)


def show(made: Pass) -> None:
    livez, samples = made.livez, made.samples
    peak, largest = max(one.server for one in samples), max(one.largest for one in samples)
    print(f"\n{sum(made.answers.values())} questions in {made.seconds:.0f} s, {len(made.wrong)} wrong answers")
    print(", ".join(f"{what}: {count}" for what, count in sorted(made.answers.items())))
    print("slowest: " + ", ".join(f"{what} {seconds:.1f} s" for seconds, what in made.slowest))
    print(f"memory in MB: server {peak / 1e6:.0f} at most, a child {largest / 1e6:.0f}, all children "
          f"{max(one.children for one in samples) / 1e6:.0f}")  # fmt: skip
    for name, one in (("before", made.before), ("after", made.after)):
        print(f"{name}: server {one.server / 1e6:.0f} MB, {one.processes} children with {one.children / 1e6:.0f} MB, "
              f"{one.threads} threads, {one.descriptors} descriptors")  # fmt: skip
    print(f"/livez: {len(livez.answers)} answers, p50 {share(livez.answers, 0.5):.1f} ms, p99 "
          f"{share(livez.answers, 0.99):.1f} ms, most {share(livez.answers, 1):.0f} ms; asked late: p99 "
          f"{share(livez.late, 0.99):.1f} ms, most {share(livez.late, 1):.0f} ms")  # fmt: skip


def test_every_document_has_its_answer(passed: Pass) -> None:
    assert not passed.wrong, "\n".join(passed.wrong)


def test_livez_answers_all_the_time(passed: Pass) -> None:
    """A busy machine makes the asking process late too. What lies between a question and its answer wakes several threads."""
    answers, late = passed.livez.answers, passed.livez.late
    assert not [one for one in answers if math.isnan(one)]
    assert share(answers, 0.99) < 50 + 5 * share(late, 0.99)
    assert share(answers, 1) < 250 + 5 * share(late, 1)


def test_memory_stays_within_its_bounds(passed: Pass) -> None:
    """Two pages at a time are made ready, half a gigabyte each at the limit of pixels, while a dense one is decoded."""
    assert max(one.server for one in passed.samples) < 2 * GIGABYTE
    assert max(one.largest for one in passed.samples) < GIGABYTE


def test_nothing_is_left_when_all_is_read(passed: Pass) -> None:
    assert passed.state == dict.fromkeys(passed.state, 0.0) and len(passed.state) == 4
    assert passed.after.server - passed.before.server < 250e6
    assert passed.after.descriptors <= passed.before.descriptors + 8
    assert passed.after.threads <= passed.before.threads + 8


def test_it_reads_as_before_and_ends_well(passed: Pass) -> None:
    assert passed.texts[0] == passed.texts[1] != ""
    assert passed.status == 0
    assert not passed.left
