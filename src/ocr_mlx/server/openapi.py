"""The application's description.

Two operations that share path and method, and differ in their body, become one; streams tell what an event is, forms which
fields are files; and what the guards answer before any route does (`guard.py`) is told of all.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

Operation = dict[str, Any]
GUARDS = {
    "400": "A header field, or the body, cannot be read",
    "401": "A token is needed",
    "403": "The Host or Origin is not allowed",
    "408": "The rest of the request never came",
    "413": "The request is too large",
    "415": "The body is of a kind that is not read here",
    "500": "Internal error",
}
EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string"}, "event": {"type": "string"}, "id": {"type": "string"}},
}
"""One event of a `text/event-stream`; its `data` is JSON."""
_DETAIL = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
_OPENAI = {
    "type": "object",
    "properties": {"error": {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}},
    "required": ["error"],
}


def install(app: FastAPI) -> None:
    """Let `app.openapi()` show such operations as one, under the id of the later. Call it once all routers are included."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = plain()
            _join(described, app)
            _complete(described)
            _tell_of_files(described)
        return plain()

    app.openapi = openapi  # type: ignore[method-assign]


def _join(described: dict[str, Any], app: FastAPI) -> None:
    """Of operations with one path and method FastAPI shows the last; described backwards, the first."""
    backwards = [*iter_route_contexts(app.routes)][::-1]
    others = get_openapi(title=app.title, version=app.version, routes=backwards)["paths"]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            other = others[path][method]
            if other["operationId"] != operation["operationId"]:
                _merge(operation, other)


def _merge(operation: Operation, other: Operation) -> None:
    """Add the other's bodies, parameters, answers and words; where both say something, `operation` is right."""
    bodies = operation.setdefault("requestBody", {"content": {}})["content"]
    for media, body in other.get("requestBody", {}).get("content", {}).items():
        bodies.setdefault(media, body)
    known = {(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", ())}
    more = [one for one in other.get("parameters", ()) if (one["in"], one["name"]) not in known]
    if more:
        operation["parameters"] = [*operation.get("parameters", ()), *more]
    for status, answer in other["responses"].items():
        told = operation["responses"].setdefault(status, answer)
        for media, content in answer.get("content", {}).items():
            told.setdefault("content", {}).setdefault(media, content)
    words = [one["description"] for one in (operation, other) if one.get("description")]
    operation["description"] = "\n\n".join(words)
    operation["responses"] = dict(sorted(operation["responses"].items()))


def _complete(described: dict[str, Any]) -> None:
    """Say what an event is, and add the guards' answers to every operation that does not tell of them itself."""
    for path, operations in described["paths"].items():
        content = {"application/json": {"schema": _OPENAI if path.startswith("/v1/") else _DETAIL}}
        for operation in operations.values():
            answers = operation["responses"]
            for told in answers.values():
                if "text/event-stream" in told.get("content", {}):
                    told["content"]["text/event-stream"] = {"schema": EVENT}
            for status, words in GUARDS.items():
                answers.setdefault(status, {"description": words, "content": content})
            operation["responses"] = dict(sorted(answers.items()))


def _tell_of_files(described: dict[str, Any]) -> None:
    """Say of forms' fields which are files, in the words that all tools know; no field of a form can be null."""
    for operations in described["paths"].values():
        for operation in operations.values():
            form = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data")
            if form is None:
                continue
            schema = described["components"]["schemas"][form["schema"]["$ref"].rpartition("/")[2]]
            for field in schema["properties"].values():
                field |= next((one for one in field.pop("anyOf", ()) if one != {"type": "null"}), {})
                if "contentMediaType" in field:
                    field["format"] = "binary"
