"""The real program, started as an app starts it."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest

from tests.process import lives
from tests.process.program import WAIT, Start

pytestmark = pytest.mark.process


def test_one_json_line_then_it_answers_and_ends_on_sigterm(start: Start, tmp_path: Path) -> None:
    program = start("--port", "0")
    record = program.ready()
    assert record.keys() == {"event", "url", "port", "pid", "instance", "version", "started"}
    assert (record["event"], record["pid"]) == ("ready", program.process.pid)
    assert httpx.get(f"{record['url']}/health").text == "OK!!!"
    assert httpx.get(f"{record['url']}/livez").headers["x-ocr-mlx-instance"] == record["instance"]
    file = tmp_path / f"server-{record['port']}.json"
    assert json.loads(file.read_text()) == record
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    program.process.send_signal(signal.SIGTERM)
    assert program.ends() == 0
    assert list(tmp_path.iterdir()) == []
    out, err = program.rest()
    assert out == "" and "Traceback" not in err


@pytest.mark.parametrize("command", [("-m", "ocr_mlx"), ("-m", "ocr_mlx", "serve")])
def test_the_bare_program_serves(start: Start, command: Sequence[str]) -> None:
    program = start(command=command, OCR_MLX_PORT="0")
    assert httpx.get(f"{program.ready()['url']}/livez").status_code == 200
    program.process.send_signal(signal.SIGINT)
    assert program.ends() == 0


def test_a_taken_port_gives_the_next_one(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start("--port", str(port))
        record = program.ready()
    assert port < record["port"] <= port + 100
    assert httpx.get(f"{record['url']}/health").text == "OK!!!"
    program.process.send_signal(signal.SIGTERM)
    assert f"port {port} is taken" in program.rest()[1]


def test_shutdown_over_http(start: Start, tmp_path: Path) -> None:
    program = start("--port", "0")
    assert httpx.get(f"{program.ready()['url']}/shutdown").text == "Shutting down..."
    assert program.ends() == 0 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OCR_MLX_PORT": "70000"}, r"OCR_MLX_PORT is '70000'.*0 to 65535"),
        ({"OCR_MLX_HEALTH": "xml"}, r"OCR_MLX_HEALTH.*text or json"),
        ({"OCR_MLX_ALLOWED_ORIGINS": "*"}, r"OCR_MLX_ALLOWED_ORIGINS.*never \*"),
    ],
)
def test_a_bad_setting_is_named(start: Start, environ: dict[str, str], words: str) -> None:
    program = start(**environ)
    assert program.ends() == 2
    out, err = program.rest()
    assert out == "" and re.search(words, err) and "Traceback" not in err


def test_an_address_that_is_not_ours(start: Start, tmp_path: Path) -> None:
    program = start("--host", "192.0.2.1", "--port", "0")
    assert program.ends() == 1
    out, err = program.rest()
    assert out == "" and "192.0.2.1" in err and list(tmp_path.iterdir()) == []


def test_a_second_signal_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    """A request whose body never comes keeps the first signal's drain waiting."""
    program = start("--port", "0", OCR_MLX_DRAIN="60")
    record = program.ready()
    with socket.create_connection(("127.0.0.1", record["port"])) as sock:
        head = f"POST /ocr HTTP/1.1\r\nHost: 127.0.0.1:{record['port']}\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: 10\r\n\r\n".encode())
        httpx.get(f"{record['url']}/livez")
        program.process.send_signal(signal.SIGTERM)
        _until(lambda: _refuses(record["port"]))
        assert program.process.poll() is None
        family = lives.family(record["pid"])
        program.process.send_signal(signal.SIGTERM)
        assert program.ends() == 128 + signal.SIGTERM
        assert lives.left(family, WAIT) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_drain_has_an_end(start: Start) -> None:
    program = start("--port", "0", OCR_MLX_DRAIN="0")
    record = program.ready()
    with socket.create_connection(("127.0.0.1", record["port"])) as sock:
        head = f"POST /ocr HTTP/1.1\r\nHost: 127.0.0.1:{record['port']}\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: 10\r\n\r\n".encode())
        httpx.get(f"{record['url']}/livez")
        program.process.send_signal(signal.SIGTERM)
        assert program.ends() == 0


def test_logs_hold_no_document_and_no_address(start: Start) -> None:
    program = start("--port", "0", OCR_MLX_LOG_LEVEL="debug")
    url = program.ready()["url"]
    asked = {"filename": "file:///tmp/very-private-name.png", "password": "hunter2"}
    assert httpx.post(f"{url}/ocr", json=asked, headers={"X-Request-ID": "my-id"}, timeout=WAIT).status_code == 404
    httpx.get(f"{url}/health?private=query")
    logs = httpx.get(f"{url}/logs").text
    program.process.send_signal(signal.SIGTERM)
    seen = logs + program.rest()[1]
    assert "[my-id] POST /ocr 404" in logs
    assert "private" not in seen and "hunter2" not in seen


def test_heavy_modules_wait_until_it_answers() -> None:
    """Everything between the start and the announcement, without what only documents need."""
    code = "import sys, ocr_mlx.endpoint; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "mlx",
        "numpy",
        "PIL",
        "httpx",
        "rich",
        "typer",
        "tokenizers",
        "huggingface_hub",
        "pypdfium2",
        "apscheduler",
    }
    assert heavy.isdisjoint(loaded)


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT).close()
    except OSError:
        return True
    return False


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end


def test_slips_in_settings_are_told_in_the_log(start: Start) -> None:
    program = start("--port", "0", OCR_MLX_MODEL="nosuch", OCR_MLX_MODLE="builtin")
    url = program.ready()["url"]
    while httpx.get(f"{url}/readyz").json()["status"] != "ready":
        time.sleep(0.05)
    program.process.send_signal(signal.SIGTERM)
    assert program.ends() == 0
    log = program.rest()[1]
    assert "OCR_MLX_MODLE is no setting" in log and "There is no model 'nosuch'" in log


def test_a_wrong_option_is_told_as_an_option(start: Start) -> None:
    program = start("--port", "abc")
    assert program.ends() == 2
    assert "--port is 'abc'" in program.rest()[1]


def test_a_parent_that_never_reads_stderr_does_not_stop_the_server(start: Start) -> None:
    program = start("--port", "0")
    url = program.ready()["url"]
    with httpx.Client(timeout=10) as client:
        for _ in range(500):  # 80 KB of log lines; a pipe takes 64
            assert client.get(f"{url}/{'x' * 40}", headers={"X-Request-ID": "x" * 64}).status_code == 404
        form = {"content-type": "multipart/form-data; boundary=b"}
        for _ in range(20):  # the parser of forms has a warning for each
            assert client.post(f"{url}/ocr", content=b"--b--\r\nrest", headers=form).status_code == 422
    program.process.send_signal(signal.SIGTERM)
    assert program.process.wait(WAIT) == 0


def test_starting_decides_no_blas_before_the_settings_do(tmp_path: Path) -> None:
    """Loading it would come before the first answer, and OCR_MLX_BLAS=0 would come too late."""
    told = "import ocr_mlx.endpoint, ocr_mlx.cli.app; from ocr_mlx.utils import blas; print(blas._door._decision)"
    ran = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=WAIT, cwd=tmp_path)
    assert ran.stdout == "None\n", ran.stderr
