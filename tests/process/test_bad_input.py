"""Every way to ask, asked wrongly: the right 4xx in that route's own shape, a message that says why, nothing told or left.

One server that asks for a token. A fault is a row of a table, a way to ask a column.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.process import marked
from tests.process.program import WAIT, Program
from tests.unit.pages.conftest import build_pdf

pytestmark = pytest.mark.process
TOKEN = "mY-s3cret-t0ken"
KEY = {"Authorization": f"Bearer {TOKEN}"}
CODE = "X-OCR-MLX-Error"
PNG = marked.png("Somebody")
PDF = marked.pdf(word="Somebody")
LOCKED = marked.pdf(word="Somebody", lock="open sesame")
LINES = " ".join(f"BT /F 10 Tf 20 {height} Td (Line {height} says little) Tj ET" for height in range(20, 780, 14))
LONG = build_pdf(*[LINES] * 150, box="0 0 600 800")
"""Minutes of reading."""
NOBODY = "http://127.0.0.1:9/v1"
"""An engine that may be named, and does not answer."""
SECRETS = re.compile(r"<[\w. ]+ at 0x|0x[0-9a-f]{6}|Traceback|site-packages|BytesIO|UploadFile|pydantic|\.py\b")
LARGER = "(?i)larger than 1 MB.*OCR_MLX_MAX_FILE_MB|too large|超过限制（1.0 MB）"
FLOOD = r"The request is larger than 2\.3 MB\. .*OCR_MLX_MAX_FILE_MB"
Asking = Callable[..., dict[str, Any]]


# --- the ways to ask -------------------------------------------------------------------------------------------------


def uri(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def as_address(data: bytes | None = PNG, **more: Any) -> dict[str, Any]:
    return {"json": ({} if data is None else {"filename": uri(data)}) | more}


def for_an_engine(data: bytes | None = PNG, **more: Any) -> dict[str, Any]:
    return as_address(data, **{"endpoint_url": NOBODY} | more)


def as_chat(data: bytes | None = PNG, **more: Any) -> dict[str, Any]:
    parts = [] if data is None else [{"type": "image_url", "image_url": {"url": uri(data)}}]
    return {"json": {"model": "builtin", "messages": [{"role": "user", "content": parts}]} | more}


def as_input(data: bytes | None = PNG, **more: Any) -> dict[str, Any]:
    parts = [] if data is None else [{"type": "input_image", "image_url": uri(data)}]
    return {"json": {"model": "builtin", "input": [{"role": "user", "content": parts}]} | more}


def as_form(data: bytes | None = PNG, **more: Any) -> dict[str, Any]:
    return {"files": {"file" if data is not None else "other": ("scan", data or b"")}, "data": more}


@dataclass(frozen=True, kw_only=True)
class Way:
    """A route, how a document is sent there, and what its error answers look like."""

    path: str
    ask: Asking
    shape: str
    unreadable: int = 400
    """The status for a document that cannot be read."""

    @property
    def is_form(self) -> bool:
        return self.ask is as_form


WAYS: Final[Mapping[str, Way]] = {
    "ocr": Way(path="/ocr", ask=as_address, shape="text", unreadable=422),
    "llm": Way(path="/llm/ocr", ask=for_an_engine, shape="detail", unreadable=422),
    "chat": Way(path="/v1/chat/completions", ask=as_chat, shape="openai"),
    "responses": Way(path="/v1/responses", ask=as_input, shape="openai"),
    "job": Way(path="/ocr", ask=as_form, shape="detail"),
    "pdf job": Way(path="/ocr/pdf", ask=as_form, shape="detail"),
    "inference": Way(path="/api/inference", ask=as_form, shape="detail"),
    "api": Way(path="/api/ocr", ask=as_form, shape="detail"),
}
JSON_WAYS = [name for name, way in WAYS.items() if not way.is_form]
FORM_WAYS = [name for name, way in WAYS.items() if way.is_form]


# --- the server, and what must hold of every answer ------------------------------------------------------------------


class Place:
    """A running server with folders of its own, and what lies in them."""

    def __init__(self, client: httpx.Client, folders: list[Path], engine: socket.socket) -> None:
        self.client, self.folders, self.engine = client, folders, engine
        self.port = client.base_url.port or 0

    def left(self) -> list[str]:
        """The files."""
        return sorted(str(path) for folder in self.folders for path in folder.rglob("*"))

    def ask(self, way: Way, data: bytes | None = PNG, **more: Any) -> httpx.Response:
        return self.client.post(way.path, **way.ask(data, **more))

    def state(self) -> dict[str, Any]:
        """What `/health` says."""
        found: dict[str, Any] = self.client.get("/health", headers={"Accept": "application/json"}).json()
        return found

    def leases(self) -> int:
        return sum(model["leases"] for model in self.state()["models"])

    def told(self, answer: httpx.Response, status: int, shape: str) -> str:
        """The message of an error answer in its shape; nothing else may be in it."""
        assert answer.status_code == status, answer.text
        assert re.fullmatch("[a-z_]+", answer.headers[CODE]), answer.headers
        secrets = SECRETS.search(answer.text) or any(str(one) in answer.text for one in (*self.folders, sys.prefix))
        assert not secrets and TOKEN not in answer.text, answer.text
        message = SHAPES[shape](answer)
        assert message.replace("\n", "").isprintable(), ascii(message)
        assert len(message) > 4 and message == message.strip(), message
        return message


def text_of(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    return answer.text


def detail_of(answer: httpx.Response) -> str:
    told = answer.json()
    assert list(told) == ["detail"] and isinstance(told["detail"], str), told
    return str(told["detail"])


def violation_of(answer: httpx.Response) -> str:
    """FastAPI's list of violations, with where they are."""
    told = answer.json()
    assert list(told) == ["detail"] and told["detail"], told
    for item in told["detail"]:
        assert {"type", "loc", "msg"} <= set(item) <= {"type", "loc", "msg", "input", "ctx"}, item
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in told["detail"])


def error_of(answer: httpx.Response) -> str:
    told = answer.json()
    assert list(told) == ["error"] and set(told["error"]) == {"message", "type", "param", "code"}, told
    assert told["error"]["type"].endswith("_error") and told["error"]["code"] == answer.headers[CODE], told
    return str(told["error"]["message"])


SHAPES: Final[Mapping[str, Callable[[httpx.Response], str]]] = {
    "text": text_of,
    "detail": detail_of,
    "violation": violation_of,
    "openai": error_of,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folders = [tmp_path_factory.mktemp(name) for name in ("home", "tmp", "state", "history", "jobs")]
    home, tmp, state, history, jobs = folders
    environ = {
        "HOME": str(home),
        "TMPDIR": str(tmp),
        "OCR_MLX_HISTORY_DIR": str(history),
        "OCR_MLX_JOBS_DIR": str(jobs),
    }
    environ |= {"OCR_MLX_TOKEN": TOKEN, "OCR_MLX_MODEL": "builtin", "OCR_MLX_KEEP_ALIVE": "-1", "OCR_MLX_OFFLINE": "1"}
    environ |= {"OCR_MLX_MAX_FILE_MB": "1", "OCR_MLX_LIGHTON_MAX_MB": "1", "OCR_MLX_DEEPSEEK_MAX_MB": "1"}
    engine = socket.create_server(("127.0.0.1", 0))
    hosts = f"127.0.0.1:9,127.0.0.1:{engine.getsockname()[1]}"
    environ |= {"OCR_MLX_REMOTE_HOSTS": hosts, "OCR_MLX_FILE_ROOTS": str(home), "OCR_MLX_JOB_IMAGE_MB": "1"}
    command = [sys.executable, "-m", "ocr_mlx.endpoint", "--port", "0"]
    program = Program(command, state, environ, stdin=subprocess.DEVNULL)
    try:
        url = program.ready()["url"]
        with engine, httpx.Client(base_url=url, timeout=WAIT, headers=KEY, trust_env=False) as client:
            place = Place(client, folders, engine)
            assert place.ask(WAYS["ocr"]).status_code == 200
            job = place.ask(WAYS["job"]).json()["job_id"]
            assert client.delete(f"/ocr/{job}").status_code == 204, "from now on there is a database"
            yield place
            assert client.get("/jobs").json() == {"jobs": []}
            assert client.get("/api/history").json() == {"items": []} and place.leases() == 0
            logs = client.get("/logs").text
            assert "unexpected" not in logs and "Traceback" not in logs, logs
    finally:
        with program.process:
            program.process.kill()


@pytest.fixture(autouse=True)
def _nothing_is_left(place: Place) -> Iterator[None]:
    before = place.left()
    yield
    assert place.left() == before


# --- documents -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is sent, and what is told. `status` None is the way's own for a document that cannot be read."""

    data: bytes = PDF
    more: Mapping[str, Any] | None = None
    status: int | None = None
    words: str = ""
    but: Mapping[str, tuple[int, str]] | None = None
    """Other statuses and words, by way."""
    ways: tuple[str, ...] = tuple(WAYS)


DOCUMENTS: Final[Mapping[str, Fault]] = {
    "empty": Fault(data=b"", status=400, words="(?i)empty", but={"api": (400, "文件为空。")}),
    "no document": Fault(
        data=b"These are notes.",
        status=400,
        words="plain text. These can be read: PDF, PNG",
        but={
            "ocr": (415, "plain text. These can be read: PDF, PNG"),
            "llm": (415, "plain text. These can be read: PDF, PNG"),
            "job": (400, "Unknown or unsupported file type"),
            "pdf job": (400, "Unknown or unsupported file type"),
            "api": (400, "仅支持图片或 PDF 文件。"),
        },
    ),
    "a torn picture": Fault(
        data=PNG[:20],
        words="damaged|cut short",
        but={"job": (400, "not a valid image"), "pdf job": (400, "expected PDF, detected PNG.* POST /ocr")},
    ),
    "a torn PDF": Fault(data=PDF[:150], words="damaged|cut short"),
    "a locked PDF": Fault(data=LOCKED, words="password"),
    "a wrong password": Fault(data=LOCKED, more={"password": "close sesame"}, words="password"),
    "no pages": Fault(more={"pages": "one"}, words="'one'.*1-3,7"),
    "pages beyond the end": Fault(more={"pages": "9"}, words="has 1 page; '9' goes beyond"),
    "a large PDF": Fault(data=PDF + b"\0" * 2**20, status=413, words=LARGER),
    "a large picture": Fault(
        data=PNG + b"\0" * 2**20, status=413, words=LARGER, but={"pdf job": (400, "expected PDF, detected PNG")}
    ),
    "a large body": Fault(data=PNG + b"\0" * 3 * 2**20, status=413, words=FLOOD),
    "no such mode": Fault(
        more={"mode": "upside-down"},
        words="upside-down.*[Kk]nown",
        but={"api": (400, "upside-down.*gundam、base、small、tiny、large")},
        ways=("ocr", "chat", "responses", "job", "pdf job", "api"),
    ),
    "no such model": Fault(
        more={"model": "zebra"},
        status=404,
        words="zebra",
        but={"job": (400, "'zebra' is not registered. Check /models"), "pdf job": (400, "Check /models")},
        ways=("ocr", "chat", "responses", "job", "pdf job"),
    ),
    "a model that is not here": Fault(
        more={"model": "facebook/nougat-small"},
        status=404,
        words="not on this machine",
        ways=("ocr", "chat", "responses"),
    ),
    "a model in a folder that is closed": Fault(
        more={"model": "/etc"},
        status=403,
        words="OCR_MLX_FILE_ROOTS",
        but={
            "chat": (400, "OCR_MLX_FILE_ROOTS"),
            "responses": (400, "OCR_MLX_FILE_ROOTS"),
            "job": (400, "not registered"),
            "pdf job": (400, "not registered"),
        },
        ways=("ocr", "chat", "responses", "job", "pdf job"),
    ),
    "an engine that may not be named": Fault(
        more={"model": "openai+http://engine.invalid/v1#m"},
        status=400,
        words="OCR_MLX_REMOTE_HOSTS",
        but={"ocr": (403, "OCR_MLX_REMOTE_HOSTS")},
        ways=("ocr", "chat", "responses", "job", "pdf job"),
    ),
    "an engine that does not answer": Fault(
        more={}, status=502, words="LLM OCR failed: .*Check that it is running", ways=("llm",)
    ),
    "another engine that may not be named": Fault(
        more={"endpoint_url": "http://engine.invalid/v1"},
        status=403,
        words="LLM OCR failed: .*OCR_MLX_REMOTE_HOSTS",
        ways=("llm",),
    ),
    "a webhook inside": Fault(
        more={"webhook_url": "http://127.0.0.1:1/"}, status=400, words="address", ways=("job", "pdf job")
    ),
    "no resolution": Fault(
        more={"dpi": "71"}, status=400, words="DPI must be between 72 and 600", ways=("job", "pdf job")
    ),
}


@pytest.mark.parametrize(("fault", "name"), [(f, name) for f, fault in DOCUMENTS.items() for name in fault.ways])
def test_documents_and_what_is_asked_of_them(place: Place, fault: str, name: str) -> None:
    row, way = DOCUMENTS[fault], WAYS[name]
    status, words = (row.but or {}).get(name, (row.status or way.unreadable, row.words))
    message = place.told(place.ask(way, row.data, **(row.more or {})), status, way.shape)
    assert re.search(words, message, re.DOTALL), message


@pytest.mark.parametrize("name", ["ocr", "chat", "responses", "job", "pdf job", "api"])
@pytest.mark.parametrize("field", ["mode", "model"])
def test_names_that_no_terminal_should_see(place: Place, name: str, field: str) -> None:
    way = WAYS[name]
    if (name, field) != ("api", "model"):
        answer = place.ask(way, **{field: "\x1b[31m\u202eevil\r"})
        place.told(answer, answer.status_code, way.shape)
        assert answer.status_code in (400, 404, 422)


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("", 400, "`filename` is empty.*file://"),
        ("page.png", 400, "no address.*file://"),
        ("ftp://example.org/a.png", 400, "no address.*file://"),
        ("file:///etc/hostname", 403, "OCR_MLX_FILE_ROOTS"),
        ("file:///etc/no-such-file", 403, "OCR_MLX_FILE_ROOTS"),
        ("http://127.0.0.1:1/a.png", 403, "OCR_MLX_FETCH_PRIVATE"),
        ("data:image/png;base64,***", 400, "base64|damaged"),
        ("data:", 400, ""),
    ],
)
@pytest.mark.parametrize("name", ["ocr", "llm"])
def test_addresses(place: Place, name: str, address: str, status: int, words: str) -> None:
    way = WAYS[name]
    message = place.told(place.ask(way, filename=address), status, way.shape)
    assert re.search(words, message, re.DOTALL), message


# --- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WAYS)
def test_a_missing_document(place: Place, name: str) -> None:
    way = WAYS[name]
    status, shape = (422, "violation") if way.is_form else (400, way.shape)
    message = place.told(place.ask(way, None), status, shape)
    wanted = {"api": "body.image: Field required", "ocr": "`filename` is empty", "llm": "`filename` is empty"}
    assert wanted.get(name, "body.file: Field required" if way.is_form else "no image or file") in message


WRONG: Final[Mapping[str, Mapping[str, Any]]] = {
    "ocr": {
        "filename": 5,
        "temperature": "hot",
        "pages": ["1"],
        "seed": -1,
        "padding": 1.5,
        "stop": "x",
        "model": None,
    },
    "llm": {"filename": ["x"], "api_key": 5, "max_tokens": 5000, "temperature": 3, "model": "", "password": {}},
    "chat": {"messages": "Read.", "model": 5, "temperature": 9, "max_tokens": 0, "stream": "maybe", "dpi": 1},
    "responses": {"input": 5, "model": " ", "max_output_tokens": -1, "top_p": 2, "text": "json", "password": []},
    "job": {"max_tokens": "many", "dpi": "fine", "engine": "x" * 301},
    "pdf job": {"max_tokens": "0", "dpi": "1e3", "webhook_url": "x" * 2001},
    "inference": {"max_tokens": "0", "pages": "1," * 6000, "password": "x" * 1001},
    "api": {"max_tokens": "-1", "task_id": "../x", "mode": "x" * 101, "prompt": "x" * 20_001},
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in WRONG.items() for field in fields])
def test_fields_of_the_wrong_kind(place: Place, name: str, field: str) -> None:
    way = WAYS[name]
    status, shape = (400, "openai") if way.shape == "openai" else (422, "violation")
    message = place.told(place.ask(way, **{field: WRONG[name][field]}), status, shape)
    assert field in message


@pytest.mark.parametrize("name", WAYS)
def test_a_large_body_that_does_not_say_so(place: Place, name: str) -> None:
    way = WAYS[name]
    request = place.client.build_request("POST", way.path, **way.ask(PNG + b"\0" * 3 * 2**20))
    sent = request.read()
    pieces = (sent[start : start + 65536] for start in range(0, len(sent), 65536))
    answer = place.client.post(way.path, content=pieces, headers={"Content-Type": request.headers["content-type"]})
    assert "content-length" not in answer.request.headers
    assert re.search(FLOOD, place.told(answer, 413, way.shape))


@pytest.mark.parametrize("name", FORM_WAYS)
def test_text_where_a_file_should_be(place: Place, name: str) -> None:
    answer = place.client.post(WAYS[name].path, data={"file": "x", "image": "x"}, files={"other": b""})
    assert "a file was expected here, not text" in place.told(answer, 422, "violation")


# --- bodies, methods, and who asks -----------------------------------------------------------------------------------

BODIES: Final[Mapping[str, tuple[bytes, str]]] = {
    "none": (b"", "application/json"),
    "half of one": (b'{"filename": "x', "application/json"),
    "a list": (b"[]", "application/json"),
    "null": (b"null", "application/json"),
    "another encoding": ('{"filename": "é"}'.encode("latin-1"), "application/json"),
    "far too deep": (b"[" * 100_000, "application/json"),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("path", [*(WAYS[name].path for name in JSON_WAYS), "/models/switch"])
def test_bodies_that_are_no_json(place: Place, path: str, body: str) -> None:
    data, kind = BODIES[body]
    answer = place.client.post(path, content=data, headers={"Content-Type": kind})
    assert answer.status_code in (400, 422)
    if path.startswith("/v1/"):
        shape = "openai"
    elif answer.status_code == 422:
        shape = "violation"
    else:
        shape = "text" if path == "/ocr" else "detail"
    place.told(answer, 400 if shape == "openai" else answer.status_code, shape)


@pytest.mark.parametrize("name", FORM_WAYS)
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data; boundary=x"),
        (b"--x\r\nno form", "multipart/form-data; boundary=x"),
        (b"no form", "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf',
            "multipart/form-data; boundary=x",
        ),
        (b"x", "multipart/form-data"),
    ],
)
def test_bodies_that_are_no_forms(place: Place, name: str, body: bytes, kind: str) -> None:
    answer = place.client.post(WAYS[name].path, content=body, headers={"Content-Type": kind})
    assert answer.status_code in (400, 422)
    place.told(answer, answer.status_code, "detail" if answer.status_code == 400 else "violation")


@pytest.mark.parametrize("name", WAYS)
def test_what_the_guards_refuse(place: Place, name: str) -> None:
    way = WAYS[name]
    shape = "text" if way.path == "/ocr" and not way.is_form else way.shape
    sent = way.ask()
    for headers, status, words in (
        ({"Authorization": ""}, 401, "token"),
        ({"Authorization": "Bearer wrong"}, 401, "The token is wrong."),
        ({"Host": "evil.example"}, 403, "OCR_MLX_ALLOWED_HOSTS"),
        ({"Origin": "https://evil.example"}, 403, "OCR_MLX_(ALLOWED|DEEPSEEK)_ORIGINS"),
        ({"Content-Type": "text/plain"}, 415, "application/json or multipart/form-data, not text/plain"),
        ({"Content-Type": ""}, 415, "must say so in Content-Type"),
    ):
        answer = place.client.post(way.path, **sent, headers=headers)
        as_text = way.path == "/ocr" and "Content-Type" in headers
        assert re.search(words, place.told(answer, status, "text" if as_text else shape))


METHODS: Final[Mapping[str, str]] = {
    "/ocr": "GET",
    "/ocr/pdf": "GET",
    "/llm/ocr": "GET",
    "/v1/chat/completions": "GET",
    "/v1/responses": "DELETE",
    "/v1/models": "POST",
    "/api/inference": "GET",
    "/api/ocr": "PUT",
    "/api/history": "POST",
    "/models/switch": "GET",
    "/models": "DELETE",
    "/jobs": "POST",
    "/info": "POST",
}


@pytest.mark.parametrize("path", METHODS)
def test_other_methods(place: Place, path: str) -> None:
    answer = place.client.request(METHODS[path], path)
    assert answer.status_code == 405 and answer.headers["allow"] and METHODS[path] not in answer.headers["allow"]
    place.told(answer, 405, "openai" if path.startswith("/v1/") else "detail")


# --- what is asked for by its name -----------------------------------------------------------------------------------

NAMES = (
    "nothing",
    "00000000-0000-4000-8000-000000000000",
    "..%2f..%2fetc",
    "%00",
    "%F0%9F%A6%93",
    "x" * 300,
    "%ff",
    "%1b%5b31m",
)
NAMED: Final[Mapping[tuple[str, str], str]] = {
    ("GET", "/ocr/{}"): "Job not found",
    ("DELETE", "/ocr/{}"): "Job not found",
    ("POST", "/ocr/{}/cancel"): "Job not found",
    ("GET", "/ocr/{}/events"): "Job not found",
    ("GET", "/models/{}/status"): "not found",
    ("POST", "/models/{}/evict"): "not found",
    ("GET", "/v1/models/{}"): "/v1/models",
    ("GET", "/api/progress/{}"): "任务不存在或已过期。",
    ("GET", "/api/history/{}"): "历史记录不存在。",
    ("DELETE", "/api/history/{}"): "历史记录不存在。",
    ("GET", "/api/history/{}/download"): "历史记录不存在。",
}


@pytest.mark.parametrize(("method", "path"), NAMED)
def test_what_is_not_there(place: Place, method: str, path: str) -> None:
    for name in NAMES:
        answer = place.client.request(method, path.format(name))
        if "%2f" in name and "Not Found" in answer.text:
            continue  # a folder is no name
        assert NAMED[method, path] in place.told(answer, 404, "openai" if path.startswith("/v1/") else "detail")


@pytest.mark.parametrize(
    ("path", "status", "shape", "words"),
    [
        ("/jobs?limit=0", 422, "violation", "query.limit"),
        ("/jobs?limit=x", 422, "violation", "query.limit"),
        ("/jobs?status=lost", 422, "violation", "query.status"),
        ("/api/history?limit=0", 422, "violation", "query.limit"),
        ("/api/history/1-00000000/download?format=exe", 400, "detail", "不支持的下载格式。"),
    ],
)
def test_queries(place: Place, path: str, status: int, shape: str, words: str) -> None:
    assert words in place.told(place.client.get(path), status, shape)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "body.model: Field required"),
        ({"model": 5}, 422, "body.model"),
        ({"model": "x" * 301}, 422, "body.model"),
        ({"model": ""}, 400, "Unknown model"),
        ({"model": "zebra"}, 400, "Unknown model: zebra. Use GET /models"),
        ({"model": "/etc"}, 400, "Unknown model: /etc"),
        ({"model": "no/such"}, 400, "Unknown model: no/such"),
        ({"model": "\ud800"}, 422, "body.model"),
    ],
)
def test_switching(place: Place, body: dict[str, Any], status: int, words: str) -> None:
    answer = place.client.post("/models/switch", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert words in place.told(answer, status, "violation" if status == 422 else "detail")
    assert place.client.get("/models/current").json() == {"model": None, "is_processing": False}


# --- clients that leave ----------------------------------------------------------------------------------------------


def raw(place: Place, path: str, asked: dict[str, Any], **headers: str) -> bytes:
    """The bytes of a request."""
    request = place.client.build_request("POST", path, **asked, headers=headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.read()


def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("name", WAYS)
def test_a_client_that_leaves_while_it_sends(place: Place, name: str) -> None:
    sent = raw(place, WAYS[name].path, WAYS[name].ask())
    with socket.create_connection(("127.0.0.1", place.port)) as sock:
        sock.sendall(sent[:-200])
    assert place.client.get("/livez").text == "ok" and place.leases() == 0


def test_clients_that_leave_while_they_wait(place: Place) -> None:
    """Documents of minutes: the model would be in use for long."""
    waiting = [(name, {}) for name in ("ocr", "chat", "responses", "inference", "api")]
    waiting += [("ocr", {"Accept": kind}) for kind in ("text/event-stream", "application/x-ndjson")]
    with ExitStack() as connections:
        for name, headers in waiting:
            sock = connections.enter_context(socket.create_connection(("127.0.0.1", place.port)))
            sock.sendall(raw(place, WAYS[name].path, WAYS[name].ask(LONG), **headers))
        assert eventually(lambda: place.leases() == len(waiting))
    assert eventually(lambda: place.leases() == 0)


def test_a_client_that_leaves_an_engine_elsewhere(place: Place) -> None:
    """The engine's connection is closed, so that it too can stop."""
    place.engine.settimeout(WAIT)
    url = f"http://127.0.0.1:{place.engine.getsockname()[1]}/v1"
    with socket.create_connection(("127.0.0.1", place.port)) as sock:
        sock.sendall(raw(place, WAYS["llm"].path, WAYS["llm"].ask(endpoint_url=url)))
        asked, _ = place.engine.accept()
        asked.settimeout(WAIT)
        assert asked.recv(1)
    with asked:
        while asked.recv(65536):
            pass
