"""The server keeps to openapi.json, whatever it is sent: no 5xx, no status, type or shape that the document lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.program import Start

OPENAPI = Path(__file__).resolve().parents[2] / "openapi.json"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = 25
"""For each operation, besides those that cover its parameters one by one."""


@pytest.mark.slow
@pytest.mark.process
def test_no_request_meets_a_5xx_or_an_answer_outside_the_document(start: Start, tmp_path: Path) -> None:
    record = start(
        "--port",
        "0",
        OCR_MLX_MODEL="builtin",
        OCR_MLX_OFFLINE="1",
        OCR_MLX_FETCH_URLS="0",
        OCR_MLX_REMOTE_HOSTS="engine.invalid",
        OCR_MLX_FILE_ROOTS=str(tmp_path),
    ).ready()
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(OPENAPI), "--url", record["url"]]
    options = ["--checks", CHECKS, "--max-examples", str(EXAMPLES), "--seed", "20261121", "--exclude-path", "/shutdown"]
    options += ["--exclude-path", "/api/progress/{task_id}"]  # a task that nobody works on is followed for minutes
    phases = ["--phases", "examples,coverage,fuzzing"]
    ran = subprocess.run([*command, *options, *phases], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2000:]
