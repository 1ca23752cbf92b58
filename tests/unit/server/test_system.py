from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ocr_mlx.engine.cache import CachedModel
from ocr_mlx.server.app import create_app
from ocr_mlx.server.system import wants_json
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeCache, FakeService, context

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("application/json", True),
        ("application/json, text/plain, */*", True),
        ("text/plain, application/json", False),
        ("text/plain;q=0.5, application/json", True),
        ("application/json;q=0.1, text/plain", False),
        ("application/json;q=0", None),
        ("text/plain", False),
        ("text/*", False),
        ("*/*", None),
        ("", None),
        ("text/html,application/xhtml+xml,*/*;q=0.8", None),
        ("application/json;q=nonsense", True),
    ],
)
def test_what_a_client_wants(accept: str, wanted: bool | None) -> None:
    """None: the default decides."""
    assert [wants_json(accept, default=default) for default in (True, False)] == (
        [True, False] if wanted is None else [wanted, wanted]
    )


def test_health_tells_what_is_loaded_and_wakes_nothing() -> None:
    loaded = CachedModel(id="m", family="nougat", bytes=7, leases=1, idle_seconds=0.0, pinned=True)
    made = context(FakeService(cache=FakeCache((loaded,))))
    with TestClient(create_app(made), base_url="http://localhost") as client:
        asleep = client.get("/health", headers={"Accept": "application/json"}).json()
        assert (asleep["engine"], asleep["modelLoaded"], asleep["models"]) == ("starting", False, [])
        assert made.engine.state == "starting"
        made.engine.wait()
        awake = client.get("/health", headers={"Accept": "application/json"}).json()
    assert (awake["engine"], awake["modelLoaded"]) == ("ready", True)
    assert awake["models"] == [
        {"id": "m", "family": "nougat", "bytes": 7, "leases": 1, "idleSeconds": 0.0, "pinned": True}
    ]
    assert (asleep["memory"], awake["memory"]) == (None, {"limitBytes": 1000, "modelsBytes": 7, "processBytes": 77})


def test_health_tells_nobody_where_a_model_lies() -> None:
    loaded = CachedModel(id="/Users/me/m", family="nougat", bytes=7, leases=1, idle_seconds=0.0, pinned=True)
    made = context(FakeService(cache=FakeCache((loaded,))), Settings(model="/Users/me/lighton-4bit", token="t" * 32))
    made.engine.wait()
    with TestClient(create_app(made), base_url="http://localhost") as client:
        answer = client.get("/health", headers={"Accept": "application/json"})
    assert (answer.json()["model"], answer.json()["models"][0]["id"]) == ("lighton-4bit", "m")
    assert "Users" not in answer.text


def test_a_failed_engine_is_not_called_healthy() -> None:
    def build() -> Any:
        raise ImportError

    made = context(FakeService())
    made.engine._build = build
    made.engine.start()
    with pytest.raises(Exception, match="engine cannot start"):
        made.engine.wait()
    with TestClient(create_app(made), base_url="http://localhost") as client:
        assert client.get("/health", headers={"Accept": "application/json"}).json()["status"] == "failed"
        assert (client.get("/readyz").status_code, client.get("/livez").status_code) == (503, 200)


def test_a_bound_address_is_its_own_host() -> None:
    made = context(FakeService(), Settings(host="192.168.1.5"))
    with TestClient(create_app(made), base_url="http://192.168.1.5:8000") as client:
        assert client.get("/livez").status_code == 200
    made = context(FakeService(), Settings(host="0.0.0.0"))
    with TestClient(create_app(made), base_url="http://0.0.0.0") as client:
        assert client.get("/livez").status_code == 403


def test_openapi_json_is_what_the_code_describes() -> None:
    document = runpy.run_path(str(ROOT / "scripts" / "export_openapi.py"))["document"]()
    assert (ROOT / "openapi.json").read_text("utf-8") == document


def test_the_operations_keep_their_names() -> None:
    found = json.loads((ROOT / "openapi.json").read_text("utf-8"))
    names = {operation["operationId"] for path in found["paths"].values() for operation in path.values()}
    assert {"ocr-ocr", "health-health", "shutdown-shutdown", "logs-get_logs"} <= names
    body = found["paths"]["/ocr"]["post"]["requestBody"]["content"]
    assert body["application/json"] == {"schema": {"$ref": "#/components/schemas/OCRRequest"}}
    assert body.keys() == {"application/json", "multipart/form-data"}
    answers = found["paths"]["/ocr"]["post"]["responses"]
    assert answers["200"]["content"]["text/plain"] == {"schema": {"type": "string"}}
    assert answers["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/HTTPValidationError")
    fields = found["components"]["schemas"]["OCRRequest"]
    assert "required" not in fields
    assert fields["properties"]["model"]["default"] == "facebook/nougat-small"
