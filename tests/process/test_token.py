"""Who needs a token, and where the real program tells it."""

from __future__ import annotations

import json
import signal
import stat
from pathlib import Path

import httpx
import psutil
import pytest

from ocr_mlx.client import Client, Refused
from tests.process.program import Start

pytestmark = pytest.mark.process
ANYWHERE = ("--host", "0.0.0.0", "--port", "0")
DATA = {"filename": "data:image/png;base64,eA=="}


def test_a_server_that_others_reach_makes_its_own_token(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = start(*ANYWHERE, OCR_MLX_LOG_LEVEL="debug")
    record = program.ready()
    url, token = record["url"], record["token"]
    file = tmp_path / f"server-{record['port']}.json"
    assert json.loads(file.read_text()) == record and stat.S_IMODE(file.stat().st_mode) == 0o600
    right = {"Authorization": f"Bearer {token}"}
    assert httpx.post(f"{url}/ocr", json=DATA).status_code == 401
    assert httpx.post(f"{url}/ocr", json=DATA, headers={"Authorization": f"Bearer {token}x"}).status_code == 401
    assert httpx.get(f"{url}/shutdown").status_code == 401
    assert httpx.get(f"{url}/livez").status_code == 200
    monkeypatch.setenv("OCR_MLX_STATE_DIR", str(tmp_path))
    with Client() as client, pytest.raises(Refused, match="can be read"):
        client.read(b"x")
    with Client(url) as stranger, pytest.raises(Refused, match="token"):
        stranger.models()
    told = "".join(
        httpx.get(f"{url}{path}", headers=right).text for path in ("/logs", "/metrics", "/openapi.json", "/health")
    )
    process = psutil.Process(program.process.pid)
    told += " ".join(part for one in (process, *process.children(recursive=True)) for part in one.cmdline())
    program.process.send_signal(signal.SIGTERM)
    assert program.ends() == 0 and not file.exists()
    told += "".join(program.rest())
    assert token not in told and "made for this run" in told


def test_a_token_in_a_file_is_told_nowhere(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "a-token"
    file.write_text("from-a-file\n")
    file.chmod(0o644)
    program = start("--port", "0", OCR_MLX_TOKEN_FILE=str(file))
    record = program.ready()
    assert "token" not in record
    assert httpx.get(f"{record['url']}/models").status_code == 401
    assert httpx.get(f"{record['url']}/models", headers={"Authorization": "Bearer from-a-file"}).status_code == 200
    program.process.send_signal(signal.SIGTERM)
    errors = program.rest()[1]
    assert "chmod 600" in errors and "from-a-file" not in errors
