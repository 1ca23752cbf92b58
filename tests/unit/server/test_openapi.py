from __future__ import annotations

from typing import Any

import pytest

from ocr_mlx.server import openapi
from ocr_mlx.server.app import create_app
from tests.wire.fakes import FakeService, context


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    app = create_app(context(FakeService()))
    openapi.install(app)
    document = app.openapi()
    assert app.openapi() is document
    return document


def test_one_operation_with_both_bodies_and_both_answers(described: dict[str, Any]) -> None:
    operation = described["paths"]["/ocr"]["post"]
    assert operation["operationId"] == "ocr-ocr"
    bodies = operation["requestBody"]["content"]
    assert bodies["application/json"]["schema"] == {"$ref": "#/components/schemas/OCRRequest"}
    form = bodies["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
    assert described["components"]["schemas"][form]["properties"].keys() >= {"file", "image", "engine", "webhook_url"}
    assert operation["requestBody"]["required"] is True
    answers = operation["responses"]
    assert answers["200"]["content"].keys() == {"text/plain", "text/event-stream", "application/x-ndjson"}
    assert list(answers["202"]["content"]) == ["application/json"]
    assert answers["400"]["content"].keys() == {"text/plain", "application/json"}
    assert answers["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/HTTPValidationError")


def test_names_that_clients_were_generated_from(described: dict[str, Any]) -> None:
    ids = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    assert {"ocr-ocr", "health-health", "shutdown-shutdown", "logs-get_logs"} <= set(ids)
    assert {"OCRRequest", "HTTPValidationError", "ValidationError"} <= described["components"]["schemas"].keys()


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, list):
            return {found for item in value for found in references(item)}
        if not isinstance(value, dict):
            return set()
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own | {found for item in value.values() for found in references(item)}

    known = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
    assert references(described) <= known


def test_other_paths_stay_as_they_are(described: dict[str, Any]) -> None:
    assert described["paths"]["/ocr/pdf"]["post"]["operationId"] == "jobs-submit_pdf"
    assert list(described["paths"]["/ocr/pdf"]["post"]["requestBody"]["content"]) == ["multipart/form-data"]
    assert list(described["paths"]["/ocr"]) == ["post"]


@pytest.mark.parametrize("path", ["/ocr", "/ocr/pdf", "/api/inference", "/api/ocr"])
def test_forms_say_which_fields_are_files_and_none_is_null(described: dict[str, Any], path: str) -> None:
    form = described["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    fields = described["components"]["schemas"][form["$ref"].rpartition("/")[2]]["properties"]
    files = {name for name, field in fields.items() if field.get("format") == "binary"}
    assert files == {"file", "image"} and all(fields[name]["type"] == "string" for name in files)
    assert not any("anyOf" in field for field in fields.values()) and fields["max_tokens"]["minimum"] == 1
