"""The ways to have a document read: every service's own, each brought down to one kind of answer."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from scripts.soaking.documents import Document, Shelf
from scripts.soaking.program import Model

JOB_SECONDS = 120.0
DIFFERS = "differs"
"""Instead of a version: words were streamed that did not stay, on one of several pages."""
_POLL = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """What is asked for. `pages` is a range, empty for all; `more` are fields of `/ocr` alone."""

    document: Document
    model: Model
    pages: str = ""
    tokens: int = 48
    more: dict[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """What all services call alike."""
        asked = {"pages": self.pages, "max_tokens": self.tokens}
        return {name: value for name, value in asked.items() if value}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came. `problem` says what is wrong with the answer in itself; `version` which model read, where it is told."""

    status: int
    text: str = field(default="", repr=False)
    code: str = ""
    waits: bool = False
    problem: str = ""
    version: str = ""
    statuses: str = ""


Way = Callable[[httpx.Client, Shelf, Ask], Answer]


def failed(answer: httpx.Response) -> Answer:
    """An answer that is an error."""
    code = answer.headers.get("x-ocr-mlx-error", "")
    return Answer(status=answer.status_code, code=code, waits="retry-after" in answer.headers, text=answer.text[:300])


def data_uri(data: bytes) -> str:
    """The bytes inside an address."""
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


# --- /ocr ------------------------------------------------------------------------------------------------------------


def by_file(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """`file://`."""
    return _plain(http, shelf.file(ask.document.name), ask)


def by_data(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """`data:`."""
    return _plain(http, data_uri(ask.document.data), ask)


def by_web(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """`http://`, with a redirect on the way."""
    return _plain(http, shelf.web(f"moved/{ask.document.name}"), ask)


def body(address: str, ask: Ask) -> dict[str, Any]:
    """JSON for `/ocr`."""
    return {"filename": address, "model": ask.model.name, "temperature": 0, **ask.fields(), **ask.more}


def _plain(http: httpx.Client, address: str, ask: Ask) -> Answer:
    answer = http.post("/ocr", json=body(address, ask))
    if answer.status_code != 200:
        return failed(answer)
    return Answer(status=200, text=answer.text, statuses=answer.headers.get("x-ocr-mlx-status", ""))


def by_events(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """Server-sent events."""
    return _streamed(http, shelf, ask, "text/event-stream")


def by_lines(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """Lines of JSON."""
    return _streamed(http, shelf, ask, "application/x-ndjson")


def _streamed(http: httpx.Client, shelf: Shelf, ask: Ask, kind: str) -> Answer:
    asked = body(shelf.file(ask.document.name), ask)
    with http.stream("POST", "/ocr", json=asked, headers={"Accept": kind}) as answer:
        if answer.status_code != 200:
            answer.read()
            return failed(answer)
        return joined(list(records(answer)))


def records(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The events of a stream, of either form."""
    for line in answer.iter_lines():
        text = line.removeprefix("data:").strip()
        if text.startswith("{"):
            yield json.loads(text)


def joined(told: list[dict[str, Any]]) -> Answer:
    """The text of a stream; its pieces and rewinds must come to each page's raw text."""
    pieces: dict[int, str] = {}
    pages: dict[int, dict[str, Any]] = {}
    order: list[int] = []
    for record in told:
        page = record.get("page", 0)
        if record["event"] == "text":
            pieces[page] = pieces.get(page, "") + record["delta"]
        elif record["event"] == "rewind":
            pieces[page] = pieces.get(page, "")[: record["length"]]
        elif record["event"] == "page_done":
            pages[page] = record
        elif record["event"] == "document_started":
            order = record["pages"]
    last = told[-1] if told else {"event": "nothing"}
    if last["event"] == "error":
        return Answer(status=last["status"], code=last["code"], waits=True, text=last["message"])
    wrong = [page for page, record in pages.items() if record["raw_text"] != pieces.get(page, "")]
    problem = f"the pieces of page {wrong[0] + 1} are not its text" if wrong else ""
    if last["event"] != "document_done":
        problem = f"the stream ended with {last['event']}"
    elif order != [*dict.fromkeys(order)] or {*order} != {*pages}:
        problem = f"pages {order} were begun, {[*pages]} done"
    texts = [pages[page]["text"] for page in order if page in pages and pages[page]["text"]]
    return Answer(status=200, text="\n\n".join(texts), problem=problem)


# --- /v1 -------------------------------------------------------------------------------------------------------------


def _part(ask: Ask) -> dict[str, Any]:
    address = data_uri(ask.document.data)
    if ask.document.is_pdf:
        return {"type": "file", "file": {"file_data": address, "filename": ask.document.name}}
    return {"type": "image_url", "image_url": {"url": address}}


def _chat(ask: Ask) -> dict[str, Any]:
    said = [{"role": "user", "content": [_part(ask)]}]
    return {"model": ask.model.name, "messages": said, "temperature": 0, **ask.fields()}


def by_chat(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """A chat completion."""
    answer = http.post("/v1/chat/completions", json=_chat(ask))
    if answer.status_code != 200:
        return failed(answer)
    return Answer(status=200, text=answer.json()["choices"][0]["message"]["content"])


def by_chat_stream(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """A chat completion in chunks. What the last chunk says of a page stands above what was streamed."""
    with http.stream("POST", "/v1/chat/completions", json=_chat(ask) | {"stream": True}) as answer:
        if answer.status_code != 200:
            answer.read()
            return failed(answer)
        chunks = list(records(answer))
    if not chunks or "error" in chunks[-1]:
        return Answer(status=500, problem=f"the stream broke off: {chunks[-1:]}")
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    pages = next((chunk["ocr"]["pages"] for chunk in chunks if "ocr" in chunk), [])
    differing = [page["text"] for page in pages if page.get("text") is not None]
    if differing and len(pages) > 1:
        return Answer(status=200, version=DIFFERS)
    return Answer(status=200, text=differing[0] if differing else text)


def by_responses(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """The Responses API."""
    address = data_uri(ask.document.data)
    part = {"type": "input_file", "file_data": address} if ask.document.is_pdf else None
    said = [{"role": "user", "content": [part or {"type": "input_image", "image_url": address}]}]
    asked = {"model": ask.model.name, "input": said, "max_output_tokens": ask.tokens, "temperature": 0}
    answer = http.post("/v1/responses", json=ask.fields() | asked)
    if answer.status_code != 200:
        return failed(answer)
    return Answer(status=200, text=answer.json()["output"][0]["content"][0]["text"])


# --- forms -----------------------------------------------------------------------------------------------------------


def by_inference(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """`/api/inference`, with whatever model was switched to."""
    files = {"file": (ask.document.name, ask.document.data)}
    answer = http.post("/api/inference", files=files, data=ask.fields())
    if answer.status_code != 200:
        return failed(answer)
    return Answer(status=200, text=answer.json()["text"], version=answer.json()["model_version"])


def by_layout(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """`/api/ocr`, with whatever model was switched to. Of several pages, each has its text of its own."""
    files = {"image": (ask.document.name, ask.document.data)}
    answer = http.post("/api/ocr", files=files, data=ask.fields() | {"mode": "tiny"})
    if answer.status_code != 200:
        return failed(answer)
    texts = [page["text"] for page in answer.json()["pages"]]
    return Answer(status=200, text="\n\n".join(text for text in texts if text))


def submit(http: httpx.Client, ask: Ask) -> httpx.Response:
    """A job."""
    files = {"file": (ask.document.name, ask.document.data)}
    return http.post("/ocr", files=files, data=ask.fields() | {"engine": ask.model.name})


def by_job(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """A job, asked for until it is done."""
    answer = submit(http, ask)
    if answer.status_code != 202:
        return failed(answer)
    where = f"/ocr/{answer.json()['job_id']}"
    deadline = time.monotonic() + JOB_SECONDS
    while (job := http.get(where)).status_code == 200 and job.json()["status"] in ("pending", "processing"):
        if time.monotonic() > deadline:
            return Answer(status=202, problem=f"not done within {JOB_SECONDS:.0f} s: {job.text[:200]}")
        time.sleep(_POLL)
    return _ended(job)


def by_job_events(http: httpx.Client, shelf: Shelf, ask: Ask) -> Answer:
    """A job, followed by its events."""
    answer = submit(http, ask)
    if answer.status_code != 202:
        return failed(answer)
    where = f"/ocr/{answer.json()['job_id']}"
    with http.stream("GET", f"{where}/events") as events:
        texts = {told["index"]: told["text"] for told in records(events) if "text" in told}
    job = http.get(where)
    ended = _ended(job)
    if ended.status != 200 or ended.code:
        return ended
    order = [page["index"] for page in job.json()["pages"]]
    if "\n\n".join(texts[index] for index in order if texts.get(index)) != ended.text:
        return Answer(status=200, problem="the events' pages are not the job's text")
    return ended


def _ended(job: httpx.Response) -> Answer:
    if job.status_code != 200:
        return failed(job)
    told = job.json()
    if told["status"] == "completed":
        return Answer(status=200, text=told["result"]["formatted_text"])
    return Answer(status=200, code="job_failed", text=str(told["error"]))


PLAIN: dict[str, Way] = {
    "file": by_file,
    "data": by_data,
    "web": by_web,
    "events": by_events,
    "lines": by_lines,
    "chat": by_chat,
    "chat stream": by_chat_stream,
    "responses": by_responses,
}
"""They name their model, and say the same of the same document."""
JOBS: dict[str, Way] = {"job": by_job, "job events": by_job_events}
"""The same, for models that do not throw dice."""
SWITCHED: dict[str, Way] = {"inference": by_inference, "layout": by_layout}
"""They read with what was switched to."""
