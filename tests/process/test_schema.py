"""The server keeps to openapi.json, whatever it is sent: no 5xx, no status, type or shape that the document lacks.

So that what is sent gets past the first door too, the document gets examples that can be read, ids of things that are
there, and an engine that answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.program import WAIT, Start
from tests.unit.pages.conftest import build_pdf

OPENAPI = Path(__file__).resolve().parents[2] / "openapi.json"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = int(os.environ.get("OCR_MLX_TEST_EXAMPLES", "25"))
"""For each operation, besides those that cover its parameters one by one; the variable asks for more by hand."""
TOKEN = "sesame"
WHITE = "P1\n16 16\n" + "0 " * 256
BLANK = build_pdf("").decode("ascii")
"""A picture and a PDF that are text, as examples must be."""
OWN_DEADLINE = "timeout"
"""The field with which a request asks for a 504."""
LEFT_OUT = ("/shutdown", "/api/progress/{task_id}")
"""The one ends the server; a task that nobody works on is followed for minutes by the other."""


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def with_examples(document: dict[str, Any], client: httpx.Client, engine: str) -> dict[str, Any]:
    """The document, with something in every request that leads to an answer of success."""
    for schema in document["components"]["schemas"].values():
        schema.get("properties", {}).pop(OWN_DEADLINE, None)
    document["components"]["schemas"]["SwitchRequest"]["properties"]["model"]["examples"] = ["builtin"]
    picture = {"filename": f"data:,{WHITE}"}
    bodies = {
        "/ocr": picture | {"model": "builtin"},
        "/llm/ocr": picture | {"endpoint_url": engine, "model": "builtin"},
    }
    for method, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {})
        if path in bodies:
            content["application/json"]["example"] = bodies[path]
        if "multipart/form-data" in content:
            content["multipart/form-data"]["example"] = {"file": BLANK if path == "/ocr/pdf" else WHITE}
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                parameter["example"] = thing(client, parameter["name"], f"{method} {path}")
    return document


def thing(client: httpx.Client, kind: str, operation: str) -> str:
    """The id of a new thing of its own, since some operations end what they are about."""
    if kind == "job_id":
        return str(client.post("/ocr", files={"file": (operation, WHITE)}).json()["job_id"])
    if kind == "history_id":
        return str(client.post("/api/ocr", files={"image": (operation, WHITE)}).json()["historyId"])
    return "builtin"


@pytest.mark.slow
@pytest.mark.process
def test_no_request_meets_a_5xx_or_an_answer_outside_the_document(start: Start, tmp_path: Path) -> None:
    engine = start("--port", "0", OCR_MLX_MODEL="builtin", OCR_MLX_OFFLINE="1").ready()["url"]
    url = start(
        "--port",
        "0",
        OCR_MLX_MODEL="builtin",
        OCR_MLX_TOKEN=TOKEN,
        OCR_MLX_OFFLINE="1",
        OCR_MLX_FETCH_URLS="0",
        OCR_MLX_REMOTE_HOSTS=engine.removeprefix("http://"),
        OCR_MLX_FILE_ROOTS=str(tmp_path),
    ).ready()["url"]
    key = f"Authorization: Bearer {TOKEN}"
    with httpx.Client(base_url=url, headers=dict([key.split(": ")]), timeout=WAIT, trust_env=False) as client:
        document = with_examples(json.loads(OPENAPI.read_bytes()), client, f"{engine}/v1")
        (tmp_path / "openapi.json").write_text(json.dumps(document), "utf-8")
        command = [sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", url, "--header", key]
        options = ["--checks", CHECKS, "--max-examples", str(EXAMPLES), "--seed", "20261121"]
        options += [word for path in LEFT_OUT for word in ("--exclude-path", path)]
        phases = ["--phases", "examples,coverage,fuzzing"]
        limit = 300 * max(1, EXAMPLES // 25)
        ran = subprocess.run([*command, *options, *phases], cwd=tmp_path, capture_output=True, text=True, timeout=limit)
        assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2000:]
        missed = sorted(successes(document) - reached(client.get("/metrics").text))
    assert not missed, "nothing was answered well here, so that the answer's form was never looked at"


def successes(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Method and path of every operation that was asked."""
    return {(method.upper(), path) for method, path, _ in operations(document) if path not in LEFT_OUT}


def reached(metrics: str) -> set[tuple[str, str]]:
    """Those that answered with a success."""
    found = set()
    for line in metrics.splitlines():
        if line.startswith("ocr_mlx_requests_total{") and 'status="2' in line:
            labels = dict(part.split("=", 1) for part in line[line.index("{") + 1 : line.rindex("}")].split(","))
            found.add((labels["method"].strip('"'), labels["route"].strip('"').replace(":path}", "}")))
    return found
