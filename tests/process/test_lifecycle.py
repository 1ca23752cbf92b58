"""How the real program ends, whatever it does at that moment, and what it leaves behind: nothing."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from ocr_mlx.cli.servers import servers
from ocr_mlx.endpoint import Sidecar, main, uvicorn_config
from ocr_mlx.settings import Settings
from ocr_mlx.utils import ports
from tests.process import lives
from tests.process.program import WAIT, Program, Start

pytestmark = pytest.mark.process

PAGE = Path(__file__).parents[2] / "examples" / "page.png"
PROMPT = 6.0
"""Two seconds, on a busy machine; nothing that is tested here would be over by then."""
NEVER = "600"
BUILTIN = {"OCR_MLX_MODEL": "builtin", "OCR_MLX_PAGE_CACHE_MB": "0"}
App = Callable[..., Program]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[App]:
    """Start a server as an app does; the folder of its record is `tmp_path`."""
    started: list[Program] = []
    found: list[psutil.Process] = []

    def run(*arguments: str, code: str = "", **environ: str) -> Program:
        started.append(lives.app(tmp_path, *arguments, code=code, **environ))
        return started[-1]

    yield run
    for program in started:
        if lives.lives(app := psutil.Process(program.process.pid)):
            found += app.children(recursive=True)
        program.process.kill()
        lives.kill(found)
        program.process.communicate()


@pytest.fixture
def ask() -> Iterator[Callable[..., Future[httpx.Response]]]:
    """Send a request from a thread."""
    with ThreadPoolExecutor(8) as threads, httpx.Client(timeout=60) as client:

        def send(url: str, **body: Any) -> Future[httpx.Response]:
            return threads.submit(client.post, f"{url}/ocr", json=body)

        yield send


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def endless() -> str:
    return uri(lives.endless_pdf(), "application/pdf")


def pages(count: int) -> str:
    """A PDF of the example's page, again and again."""
    out = io.BytesIO()
    with Image.open(PAGE) as opened:
        first, *others = (
            opened.convert("L").crop((0, 0, opened.width, opened.height // 3 - at)) for at in range(count)
        )
    first.save(out, "PDF", save_all=True, append_images=others, resolution=100)
    return uri(out.getvalue(), "application/pdf")


def heard(program: Program, words: str) -> None:
    """Wait for a line on stderr."""
    assert program.process.stderr is not None
    while words not in (line := program.process.stderr.readline()):
        assert line, "it ended"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(("server-", ".server-")))


# --- whoever started it has gone -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("doing", "watches"),
    [
        ("draws", ("--parent-pid", "MY-PID")),
        ("loads", ("--stdin-watch",)),
        ("answers", ("--parent-pid", "MY-PID")),
        pytest.param("computes", ("--parent-pid", "MY-PID", "--stdin-watch"), marks=pytest.mark.slow),
    ],
)
def test_it_goes_with_an_app_that_is_killed_whatever_it_does(
    spawn: App, ask: Callable[..., Any], tmp_path: Path, doing: str, watches: tuple[str, ...]
) -> None:
    """Its drain would take ten minutes; nobody is left to wait for it."""
    environ = BUILTIN | lives.ONE_CORE | {"OCR_MLX_DRAIN": NEVER, "OCR_MLX_RENDER_TIMEOUT": NEVER}
    if doing == "draws":
        program = spawn("--port", "0", *watches, **environ)
    else:
        program = spawn(doing, "--port", "0", *watches, code=lives.BUSY, **environ)
    record = program.ready()
    answer = ask(record["url"], filename=endless() if doing == "draws" else PAGE.as_uri())
    if doing == "draws":
        lives.until(lambda: lives.works(record["pid"]))
    else:
        heard(program, "BUSY")
    family = lives.family(record["pid"])
    program.process.kill()
    assert lives.left(family, PROMPT) == []
    assert names(tmp_path) == []
    assert answer.exception() is not None or answer.result().status_code == 503


@pytest.mark.slow
def test_a_parent_that_is_gone_from_the_start(start: Start, tmp_path: Path) -> None:
    """Standard input is at its end at once. No address is announced that nobody answers at."""
    program = start("--port", "0", "--parent_pid", str(2**22 + 1))
    with Program(
        [sys.executable, "-m", "ocr_mlx.endpoint", "--port", "0", "--stdin-watch"], tmp_path, {}
    ).process as other:
        out, err = other.communicate(timeout=WAIT)
    assert program.ends() == other.returncode == 0
    assert "Traceback" not in err and names(tmp_path) == [] and out.count("\n") <= 1


@pytest.mark.slow
def test_a_job_survives_the_app(spawn: App, tmp_path: Path) -> None:
    program = spawn("--port", "0", "--stdin-watch", OCR_MLX_MAX_ROWS="1", **BUILTIN)
    url = program.ready()["url"]
    files = {"file": ("many.pdf", base64.b64decode(pages(12).partition(",")[2]), "application/pdf")}
    job = httpx.post(f"{url}/ocr/pdf", files=files, timeout=WAIT).json()["job_id"]
    lives.until(lambda: (httpx.get(f"{url}/ocr/{job}").json().get("progress") or {"done": 0})["done"] > 0)
    program.process.kill()
    url = spawn("--port", "0", "--stdin-watch", **BUILTIN).ready()["url"]
    lives.until(lambda: httpx.get(f"{url}/ocr/{job}").json()["status"] == "completed", 60)
    assert httpx.get(f"{url}/ocr/{job}").json()["progress"]["done"] == 12


def test_an_end_before_the_start_announces_nothing() -> None:
    told: list[str] = []
    with ports.listen("127.0.0.1", 0) as sock:
        config = uvicorn_config(lambda *_: None, Settings(), "x")
        server = Sidecar(config, drain=60, on_ready=lambda: told.append("ready"))
        server.on_end = lambda: told.append("end")
        server.end()
        server.run(sockets=[sock])
        server.end()
        server.give_up()
    assert told == []


# --- told to end -----------------------------------------------------------------------------------------------------


def test_what_is_in_work_is_answered_before_it_ends(start: Start, ask: Callable[..., Any]) -> None:
    """A Ctrl-C at a terminal goes to every process that was started from it."""
    program = start("--port", "0", OCR_MLX_MAX_ROWS="1", OCR_MLX_DRAIN="60", session=True, **BUILTIN)
    record = program.ready()
    answer = ask(record["url"], filename=pages(3))
    lives.until(lambda: "ocr_mlx_documents_in_work 1.0" in httpx.get(f"{record['url']}/metrics").text)
    family = lives.family(record["pid"])
    os.killpg(record["pid"], signal.SIGINT)
    lives.until(lambda: refuses(record["port"]))
    assert answer.result().status_code == 200
    assert answer.result().headers["x-ocr-mlx-status"] == "ok,ok,ok"
    assert program.ends() == 0
    assert lives.left(family, PROMPT) == []


def test_what_is_not_done_at_the_deadline_is_told_so(start: Start, ask: Callable[..., Any], tmp_path: Path) -> None:
    """A document that waits for a page, one that streams, and one whose page never ends; the terminal is closed."""
    program = start("--port", "0", OCR_MLX_MAX_ROWS="1", OCR_MLX_DRAIN="0.5", session=True, **BUILTIN)
    record = program.ready()
    many = pages(30)
    stuck, long = ask(record["url"], filename=endless()), ask(record["url"], filename=many)
    told: list[dict[str, Any]] = []

    def listen() -> None:
        with httpx.stream(
            "POST",
            f"{record['url']}/ocr",
            json={"filename": many},
            headers={"accept": "application/x-ndjson"},
            timeout=60,
        ) as stream:
            told.extend(json.loads(line) for line in stream.iter_lines())

    listener = threading.Thread(target=listen)
    listener.start()
    lives.until(lambda: lives.works(record["pid"]) and told)
    family = lives.family(record["pid"])
    os.killpg(record["pid"], signal.SIGHUP)
    for answer in (stuck.result(), long.result()):
        assert (answer.status_code, answer.headers["x-ocr-mlx-error"]) == (503, "shutting_down")
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["x-ocr-mlx-instance"] == record["instance"]
    listener.join(WAIT)
    assert (told[-1]["event"], told[-1]["code"]) == ("error", "shutting_down")
    assert program.ends() == 0
    assert lives.left(family, PROMPT) == [] and names(tmp_path) == []
    assert "ending: SIGHUP" in program.rest()[1]


@pytest.mark.slow
@pytest.mark.parametrize("doing", ["loads", "computes"])
def test_it_ends_in_time_although_a_thread_does_not(
    spawn: App, ask: Callable[..., Any], tmp_path: Path, doing: str
) -> None:
    program = spawn(doing, "--port", "0", code=lives.BUSY, OCR_MLX_DRAIN="0.5", **BUILTIN, **lives.ONE_CORE)
    record = program.ready()
    answer = ask(record["url"], filename=PAGE.as_uri())
    heard(program, "BUSY")
    family = lives.family(record["pid"])
    os.kill(record["pid"], signal.SIGTERM)
    assert lives.left(family, 15) == []
    assert names(tmp_path) == []
    assert answer.exception() is not None or answer.result().status_code == 503


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT).close()
    except OSError:
        return True
    return False


# --- killed ----------------------------------------------------------------------------------------------------------


def test_killed_in_the_middle_of_a_page_it_leaves_no_process_and_the_next_server_tidies_up(
    start: Start, ask: Callable[..., Any], tmp_path: Path
) -> None:
    program = start("--port", "0", OCR_MLX_RENDER_TIMEOUT=NEVER, **BUILTIN)
    record = program.ready()
    answer = ask(record["url"], filename=endless())
    lives.until(lambda: lives.works(record["pid"]))
    family = lives.family(record["pid"])
    assert len(family) > 1
    program.process.kill()
    assert lives.left(family, PROMPT) == []
    assert isinstance(answer.exception(), httpx.HTTPError)
    assert program.ends() == -signal.SIGKILL
    assert names(tmp_path) == [f"server-{record['port']}.json"]
    reused = tmp_path / "server-1.json"
    reused.write_text(json.dumps(record | {"port": 1, "pid": os.getpid(), "instance": "reused"}))
    following = start("--port", str(record["port"]))
    now = following.ready()
    lives.until(lambda: names(tmp_path) == [f"server-{now['port']}.json"])
    assert [server.url for server in servers(Settings(state_dir=tmp_path))] == [now["url"]]


@pytest.mark.slow
def test_servers_that_start_at_the_same_instant(start: Start, tmp_path: Path) -> None:
    """Each has a port and a record of its own, whatever stale records lie there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for stale in range(port, port + 4):
        (tmp_path / f"server-{stale}.json").write_text(json.dumps({"port": stale, "pid": 2**22 + 1}))
    programs = [start("--port", str(port)) for _ in range(4)]
    records = [program.ready() for program in programs]
    assert len({record["port"] for record in records}) == 4
    lives.until(lambda: names(tmp_path) == sorted(f"server-{record['port']}.json" for record in records))
    for program in programs:
        program.process.send_signal(signal.SIGTERM)
    assert [program.ends() for program in programs] == [0] * 4
    assert names(tmp_path) == []


# --- its name, its record, its streams -------------------------------------------------------------------------------


def test_its_name_is_on_every_answer(start: Start, tmp_path: Path) -> None:
    name = "my.App_1-" + "x" * 55
    program = start("--port", "0", "--instance", name)
    record = program.ready()
    assert record["instance"] == name
    path = tmp_path / f"server-{record['port']}.json"
    assert json.loads(path.read_text()) == record and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert abs(psutil.Process(record["pid"]).create_time() - record["started"]) < 2
    with httpx.Client(base_url=record["url"]) as client:
        answers = {
            "a page": client.get("/livez"),
            "no route": client.get("/nothing"),
            "a wrong method": client.put("/ocr"),
            "a wrong host": client.get("/livez", headers={"host": "evil.example"}),
            "a wrong origin": client.post("/ocr", headers={"origin": "http://evil.example"}),
            "a wrong type": client.post("/ocr", content=b"x", headers={"content-type": "text/plain"}),
            "a wrong body": client.post("/ocr", content=b"{", headers={"content-type": "application/json"}),
            "a preflight": client.options("/ocr", headers={"origin": "tauri://localhost"}),
            "no file": client.post("/ocr", json={"filename": "file:///nowhere.png"}, timeout=WAIT),
        }
    got = {
        what: (answer.status_code, answer.headers.get_list("x-ocr-mlx-instance")) for what, answer in answers.items()
    }
    assert {what: found for what, (_, found) in got.items() if found != [name]} == {}
    assert got["a page"][0] == 200 and got["no file"][0] == 404 and got["a wrong host"][0] >= 400


@pytest.mark.parametrize("name", ["", "x" * 65, "two words", "päth", "a/b", "line\nbreak"])
def test_a_name_that_is_none(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _without_signals(lambda: main(["--instance", name]))
    assert ended.value.code == 2 and "1 to 64 letters" in capsys.readouterr().err


def test_the_exit_statuses_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _without_signals(lambda: main(["--help"]))
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "Exit status: 0 told to end" in said and "128+N" in said


def _without_signals(act: Callable[[], Any]) -> Any:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        return act()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_app_that_reads_nothing(start: Start, tmp_path: Path) -> None:
    """Its end of stdout is closed before there is a ready line, and the state folder cannot be made."""
    (tmp_path / "file").touch()
    program = start("--port", "0", OCR_MLX_STATE_DIR=str(tmp_path / "file" / "folder"))
    assert program.process.stdout is not None
    program.process.stdout.close()
    heard(program, "the state folder cannot be written")
    time.sleep(0.3)
    program.process.send_signal(signal.SIGTERM)
    assert program.ends() == 0
    assert program.process.stderr is not None
    err = program.process.stderr.read()
    assert "Traceback" not in err and "Exception" not in err and "ended" in err


@pytest.mark.slow
def test_standard_streams_that_are_closed(tmp_path: Path) -> None:
    closing = f'exec "{sys.executable}" -m ocr_mlx.endpoint --port 0 <&- >&- 2>&-'
    with subprocess.Popen(["sh", "-c", closing], env=os.environ | {"OCR_MLX_STATE_DIR": str(tmp_path)}) as process:
        lives.until(lambda: names(tmp_path) and names(tmp_path)[0].startswith("server-"))
        record = json.loads((tmp_path / names(tmp_path)[0]).read_text())
        assert httpx.get(f"{record['url']}/livez").headers["x-ocr-mlx-instance"] == record["instance"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT) == 0
    assert names(tmp_path) == []
