"""Nothing of a document stays or is told where it should not be: logs, metrics, error answers, the disk, other processes."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest

from tests.process import marked
from tests.process.marked import NAME, PLACE, WORD
from tests.process.program import WAIT, Program

pytestmark = pytest.mark.process
STYLES = ["json", pytest.param("text", marks=pytest.mark.slow)]
JSON = {"Content-Type": "application/json"}
FIELDS = (
    *(
        "filename",
        "temperature",
        "top_p",
        "padding",
        "stop",
        "seed",
        "messages",
        "input",
        "stream",
        "text",
        "max_tokens",
    ),
    *("response_format", "stream_options", "logprobs", "n", "tools", "timeout", "fresh"),
)


@dataclass
class Server:
    """A running server with folders of its own for everything."""

    program: Program
    client: httpx.Client
    folders: dict[str, Path]
    answers: list[tuple[str, str, httpx.Response]] = field(default_factory=list, repr=False)
    """What was tried, what was sent, and what came back."""

    def ask(self, what: str, path: str, method: str = "POST", **more: Any) -> httpx.Response:
        """Send it, and keep the answer."""
        answer = self.client.request(method, path, **more)
        self.answers.append((f"{what} {path}", repr((path, more)), answer))
        return answer


@contextmanager
def serving(folder: Path, **environ: str) -> Iterator[Server]:
    folders = {name: folder / name for name in ("home", "tmp", "state")}
    for one in folders.values():
        one.mkdir(parents=True)
    own = {"HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "OCR_MLX_LOG_LEVEL": "debug"}
    own |= {"OCR_MLX_MODEL": "builtin", "OCR_MLX_KEEP_ALIVE": "-1", "OCR_MLX_OFFLINE": "1"}
    command = [sys.executable, "-m", "ocr_mlx.endpoint", "--port", "0"]
    program = Program(command, folders["state"], own | environ, stdin=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=program.ready()["url"], timeout=WAIT) as client:
            yield Server(program, client, folders)
    finally:
        with program.process:
            program.process.kill()


# --- everything that can be asked ------------------------------------------------------------------------------------


def read_everywhere(server: Server, kind: str, name: str, data: bytes, folder: Path, url: str) -> list[str]:
    """Send one document to every route in every form; the ids of the jobs."""
    uri = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    path = folder / PLACE / f"{PLACE}-{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    mine = {"prompt": WORD, "password": WORD}
    for form, source in (("data", uri), ("file", path.as_uri()), ("url", f"{url}/{name}?key={WORD}")):
        server.ask(f"ocr {form}", "/ocr", json=mine | {"filename": source})
        server.ask(f"llm {form}", "/llm/ocr", json=mine | {"filename": source, "endpoint_url": "http://127.0.0.1:9/v1"})
    for accept in ("text/event-stream", "application/x-ndjson"):
        server.ask("stream", "/ocr", json=mine | {"filename": uri}, headers={"Accept": accept})
    file = {"file": (f"{WORD}-{name}", data, kind)}
    for route in ("/api/inference", "/api/ocr"):
        server.ask(route, route, files=file, data=mine)
    jobs = [server.ask("job", route, files=file, data=mine) for route in ("/ocr", "/ocr/pdf")]
    read_as_chat(server, uri, f"{url}/{name}?key={WORD}", name)
    return [answer.json()["job_id"] for answer in jobs if answer.status_code == 202]


def read_as_chat(server: Server, uri: str, url: str, name: str) -> None:
    ask = {"model": "builtin", "password": WORD}
    for source in (uri, url):
        parts = [{"type": "text", "text": WORD}, {"type": "image_url", "image_url": {"url": source}}]
        for more in ({}, {"stream": True}):
            messages = [{"role": "system", "content": WORD}, {"role": "user", "content": parts}]
            server.ask("chat", "/v1/chat/completions", json=ask | more | {"messages": messages})
    file = {"type": "input_file", "file_data": uri, "filename": f"{WORD}-{name}"}
    server.ask("responses", "/v1/responses", json=ask | {"input": [{"role": "user", "content": [file]}]})
    bare = {"type": "input_file", "file_data": uri.partition(",")[2], "filename": f"{WORD}-{name}"}
    server.ask("responses", "/v1/responses", json=ask | {"input": [{"role": "user", "content": [bare]}]})


def ask_wrongly(server: Server) -> None:
    """The word where a value of another kind belongs, in JSON that is none, in forms that are none."""
    uri = "data:image/png;base64," + base64.b64encode(marked.png()).decode()
    routes = ("/ocr", "/llm/ocr", "/v1/chat/completions", "/v1/responses", "/models/switch")
    for route in routes:
        for body in (f'{{"filename": "{WORD}', f'"{WORD}"', f"[{WORD}]", f'{{"{WORD}": {WORD}}}', WORD, f"\xff{WORD}"):
            server.ask("no JSON", route, content=body.encode("latin-1"), headers=JSON)
        for value in (WORD, [WORD], {WORD: WORD}, {"url": WORD}, [[WORD]]):
            wrong = dict.fromkeys(FIELDS, value)
            server.ask("wrong types", route, json=wrong | {"model": "builtin"})
            server.ask("wrong types", route, json=wrong | {"filename": uri, "model": [value]})
    for source in (f"data:image/png;base64,{WORD}*", f"data:{WORD}", f"data:text/plain,{WORD}", f"ftp://{WORD}@x/"):
        server.ask("no source", "/ocr", json={"filename": source})
        part = {"type": "image_url", "image_url": {"url": source}}
        server.ask(
            "no source",
            "/v1/chat/completions",
            json={"model": "builtin", "messages": [{"role": "user", "content": [part]}]},
        )
    for route in ("/ocr", "/ocr/pdf", "/api/inference", "/api/ocr"):
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        server.ask("no form", route, content=f"--x\r\nContent-Disposition: {WORD}\r\n\r\n{WORD}", headers=form)
        server.ask("no form", route, content=WORD * 100, headers=form)
        server.ask("no file", route, files={"other": (WORD, WORD.encode(), "image/png")})
        server.ask("text as file", route, data={"file": WORD, "image": WORD}, files={"x": b""})
        good = {"file": (f"../{WORD}.png", marked.png(), f"image/{WORD}")}
        server.ask("wrong field", route, files=good, data={"max_tokens": WORD, "dpi": WORD, "password": WORD})
    server.ask("too large", "/ocr", content=b'{"filename": "' + WORD.encode() * 500_000, headers=JSON)
    server.ask("wrong type", "/ocr", content=WORD, headers={"Content-Type": f"text/{NAME}"})


def ask_for_what_is_not_there(server: Server) -> None:
    """Names of things that do not exist. The answer may name them; nothing else may."""
    file = {"file": ("a.png", marked.png("Somebody"), "image/png")}
    good = "data:image/png;base64," + base64.b64encode(marked.png("Somebody")).decode()
    for name in (NAME, f"{NAME}/{NAME}", f"/{NAME}/model", f"openai+http://{NAME}.example/v1#{NAME}"):
        server.ask("model", "/ocr", json={"filename": good, "model": name})
        server.ask("model", "/ocr", files=file, data={"engine": name})
        server.ask("model", "/models/switch", json={"model": name})
        server.ask("model", f"/models/{quote(name)}/evict")
        server.ask("model", f"/v1/models/{quote(name)}", "GET")
        server.ask("model", f"/models/{quote(name)}/status", "GET")
    for more in ({"mode": NAME}, {"pages": NAME}, {"pages": f"1-{NAME}"}):
        server.ask("option", "/ocr", json={"filename": good} | more)
        for route in ("/ocr", "/api/ocr", "/api/inference"):
            server.ask("option", route, files=file, data=more | {"task_id": NAME})
    for hook in (f"http://127.0.0.1/{NAME}", f"ftp://{NAME}.example/", f"http://{NAME}:{NAME}@localhost/"):
        server.ask("webhook", "/ocr", files=file, data={"webhook_url": hook})
    for path in (f"/{NAME}", f"/ocr/{NAME}", f"/api/history/{NAME}", f"/api/progress/{NAME}?{NAME}={NAME}"):
        server.ask("path", path, "GET")
        server.ask("method", path, "DELETE")
    server.ask("header", "/livez", "GET", headers={"X-Request-ID": f"{NAME} is not plain", "Referer": NAME})
    server.ask("host", "/livez", "GET", headers={"Host": f"{NAME}.example"})
    server.ask("origin", "/ocr", json={}, headers={"Origin": f"https://{NAME}.example"})
    server.ask("token", "/livez", "GET", headers={"Authorization": f"Bearer {NAME}", "Cookie": f"{NAME}={NAME}"})


# --- what must hold --------------------------------------------------------------------------------------------------


def told(answer: httpx.Response) -> bytes:
    """What an answer says of a failure: all of it, or the errors in a stream that had begun."""
    head = b"\n".join(name + b": " + value for name, value in answer.headers.raw)
    if answer.status_code >= 400:
        return head + answer.content
    if not answer.headers.get("content-type", "").startswith(("text/event-stream", "application/x-ndjson")):
        return head
    return head + b"\n".join(
        line for line in answer.content.splitlines() if b'"error"' in line and b'"text"' not in line
    )


def check_answers(server: Server) -> None:
    """An error answer holds no word of a document; the place of a document or a thing's name only where it was named."""
    wrong = []
    for what, sent, answer in server.answers:
        named = [word for word in (PLACE, NAME) if word in sent]
        if any(word not in named for word in marked.inside(told(answer))):
            wrong.append((what, sent[:200], answer.status_code, answer.text[:500], dict(answer.headers)))
    assert not wrong


def check_processes(server: Server) -> None:
    """No word on a command line or in an environment, and no core dumps of anybody."""
    here = psutil.Process(server.program.process.pid)
    for process in (here, *here.children(recursive=True)):
        words = " ".join([*process.cmdline(), *process.environ().values()])
        assert not marked.inside(words.encode())
        if hasattr(process, "rlimit"):
            assert process.rlimit(psutil.RLIMIT_CORE)[0] == 0


def forget(server: Server, jobs: list[str]) -> None:
    """Delete all jobs, once they have ended, and the history."""
    for job in jobs:
        with server.client.stream("GET", f"/ocr/{job}/events") as events:
            assert any("event: done" in line for line in events.iter_lines())
        assert server.client.delete(f"/ocr/{job}").status_code == 204
    for entry in server.client.get("/api/history", params={"limit": 1000}).json()["items"]:
        assert server.client.delete(f"/api/history/{entry['id']}").status_code == 204


@pytest.mark.parametrize("style", STYLES)
def test_nothing_of_a_document_is_told_or_left(tmp_path: Path, style: str) -> None:
    (tmp_path / "files").mkdir()
    files = marked.documents()
    limits = {"OCR_MLX_MAX_FILE_MB": "1", "OCR_MLX_FETCH_PRIVATE": "1", "OCR_MLX_LOG_FORMAT": style}
    with marked.web(files) as url, serving(tmp_path / "server", **limits) as server:
        jobs: list[str] = []
        with marked.Watch(server.folders["tmp"], server.folders["home"]) as watch:
            for name, (kind, data) in files.items():
                jobs += read_everywhere(server, kind, name, data, tmp_path / "files", url)
            ask_wrongly(server)
            ask_for_what_is_not_there(server)
            check_processes(server)
        check_answers(server)
        read = [answer for *_, answer in server.answers if answer.status_code == 200 and WORD in answer.text]
        assert len(read) >= 16 and len(jobs) >= 3, "the documents that can be read were read"
        statuses = {answer.status_code for *_, answer in server.answers}
        assert {200, 202, 400, 403, 404, 413, 415, 422} <= statuses and 500 not in statuses
        assert not watch.found and watch.looks > 3
        assert marked.on_disk([server.folders["state"]]), "jobs and history keep documents while they live"
        told_of = {
            name: server.client.get(name).text for name in ("/logs", "/metrics", "/models", "/health", "/v1/models")
        }
        forget(server, jobs)
        assert not server.client.get("/jobs").json()["jobs"], "what cannot be read becomes no job"
        assert not marked.on_disk(server.folders.values())
        server.program.process.send_signal(signal.SIGTERM)
        written = server.program.rest()[1]
    for name, text in (told_of | {"stderr": written}).items():
        assert not marked.inside(text.encode()), (
            name,
            [line for line in text.splitlines() if marked.inside(line.encode())],
        )
        assert str(tmp_path) not in text, name
    assert written.count("POST /ocr ") >= 3 and not marked.on_disk(server.folders.values())


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_page_leaves_nothing(tmp_path: Path) -> None:
    """Not even with a form that is kept in a file while it is received."""
    document = {"filename": "data:application/pdf;base64," + base64.b64encode(marked.pdf(40)).decode()}
    with serving(tmp_path) as server:
        with server.client.stream("POST", "/ocr", json=document, headers={"Accept": "application/x-ndjson"}) as lines:
            pages = (json.loads(line) for line in lines.iter_lines())
            assert next(line for line in pages if line["event"] == "page_done")
            children = psutil.Process(server.program.process.pid).children(recursive=True)
            half = server.client.build_request(
                "POST", "/ocr", files={"file": ("a.png", marked.png() * 3000, "image/png")}
            )
            sending = half.read()[: 2 * 2**20]
            with raw(server) as connection:
                head = "".join(f"{name}: {value}\r\n" for name, value in half.headers.items())
                connection.sendall(f"POST /ocr HTTP/1.1\r\n{head}\r\n".encode() + sending)
                time.sleep(0.2)
                server.program.process.kill()
                server.program.process.wait(WAIT)
        assert children and not psutil.wait_procs(children, WAIT)[1]
        assert not marked.on_disk(server.folders.values())
        assert not marked.inside(server.program.rest()[1].encode())


@contextmanager
def raw(server: Server) -> Iterator[Any]:
    import socket

    url = server.client.base_url
    with socket.create_connection((url.host, url.port), WAIT) as connection:
        yield connection


@pytest.mark.slow
def test_a_killed_servers_jobs_go_with_the_next_one(tmp_path: Path) -> None:
    """What a job keeps is the next server's to read; once that forgets it, it is gone from the database's log too."""
    with serving(tmp_path / "first") as server:
        job = server.ask("job", "/ocr/pdf", files={"file": ("a.pdf", marked.pdf(30), "application/pdf")}).json()[
            "job_id"
        ]
        with server.client.stream("GET", f"/ocr/{job}/events") as events:
            assert any("event: page" in line for line in events.iter_lines())
            server.program.process.kill()
            server.program.process.wait(WAIT)
        state = server.folders["state"]
        assert marked.on_disk([state])
    jobs = str(state / "jobs")
    with serving(tmp_path / "second", OCR_MLX_JOBS_DIR=jobs) as server:
        assert server.client.get(f"/ocr/{job}").status_code == 200
        assert server.client.delete(f"/ocr/{job}").status_code == 204
        end = time.monotonic() + WAIT
        while (left := marked.on_disk([state, *server.folders.values()])) and time.monotonic() < end:
            time.sleep(0.1)  # a page that was being read is let go
        assert not left


def test_the_command_line_tells_and_leaves_nothing_but_the_text(tmp_path: Path) -> None:
    """Inputs are called by their names, which the user gave; their content is in the text alone."""
    paths = []
    for name, (_, data) in marked.documents().items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    own = {"HOME": tmp_path / "home", "TMPDIR": tmp_path / "tmp", "OCR_MLX_STATE_DIR": tmp_path / "state"}
    for folder in own.values():
        folder.mkdir()
    environ = os.environ | {name: str(folder) for name, folder in own.items()} | {"OCR_MLX_MAX_FILE_MB": "1"}
    command = [sys.executable, "-m", "ocr_mlx", "read", *map(str, paths), "--model", "builtin", "--password", "x"]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=WAIT)
    assert ran.returncode == 1 and ran.stdout.count(WORD) >= 2, ran.stderr
    assert not marked.inside(ran.stderr.encode()) and "Traceback" not in ran.stderr
    assert not marked.on_disk(own.values())
