"""Every call as a value: what is sent, and how its answer is read. Shared by the sync and the async client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, unquote

import httpx

from ocr_mlx.client import chat, jobs, live
from ocr_mlx.client.documents import Document, open_document
from ocr_mlx.client.errors import BadAnswer, failure, not_an_address, translated
from ocr_mlx.client.locate import local_server
from ocr_mlx.client.options import ChatOptions, ReadOptions, SubmitOptions, given
from ocr_mlx.client.records import Chat, Job, Model, Models, Reading

T = TypeVar("T")
CONNECT = 5.0
"""Seconds to reach the server."""
QUICK = 30.0
"""Seconds that a call without reading may take."""
KEPT = 3.0
"""Seconds that an idle connection is kept. Servers close theirs after five, which a call at that moment would meet."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_JSON = {"Accept": "application/json"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """One request. `parse` gets an answer below 400; `seconds` bounds a silence of the server, None as the client has it."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    json: Any = None
    data: Mapping[str, str] | None = None
    files: Mapping[str, tuple[str, bytes, str]] | None = None
    params: Mapping[str, str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request as `http` sends it."""
        more: dict[str, Any] = {}
        if self.seconds is not None:
            more["timeout"] = httpx.Timeout(self.seconds, connect=CONNECT)
        return http.build_request(
            self.method,
            self.path,
            json=self.json,
            data=self.data,
            files=self.files,
            params=self.params,
            headers=self.headers,
            **more,
        )

    def answer(self, response: httpx.Response) -> T:
        """What the call promises. Raises OcrClientError."""
        if response.is_error:
            raise failure(response)
        if response.is_redirect:
            raise BadAnswer("The server sends the client elsewhere. Give the address it names.")
        try:
            return self.parse(response)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadAnswer("The answer is not from an ocr_mlx server.", status=response.status_code) from error


def connection(base_url: str | None, token: str | None, timeout: float | None) -> dict[str, Any]:
    """How both clients set up httpx. A proxy of the environment is not asked for a server on this machine."""
    found, made = (base_url, None) if base_url else local_server()
    url, token = found.strip().rstrip("/"), token or made
    _check_address(url)
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {token}"} if token else {},
        "timeout": httpx.Timeout(timeout, connect=CONNECT),
        "limits": httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEPT),
        "trust_env": not is_local(url),
    }


def _check_address(url: str) -> None:
    with translated(url):
        parts = httpx.URL(url)
    if parts.scheme not in ("http", "https") or not parts.host:
        raise not_an_address(url)


def is_local(url: str) -> bool:
    """Whether a server is on this machine. Raises httpx.InvalidURL."""
    return httpx.URL(url).host in _LOOPBACK


def read(source: Document, options: ReadOptions) -> Call[Reading]:
    """`POST /ocr` with JSON. Opens files."""
    body = given(options, ReadOptions) | {"filename": open_document(source).uri}
    return Call(method="POST", path="/ocr", json=body, parse=_reading)


def follow(source: Document, options: ReadOptions) -> Call[Any]:
    """The same as a stream of events."""
    body = given(options, ReadOptions) | {"filename": open_document(source).uri}
    return Call(method="POST", path="/ocr", json=body, headers=live.ACCEPT, parse=_raw)


def ask(source: Document, options: ChatOptions) -> Call[Chat]:
    """`POST /v1/chat/completions`. Opens files."""
    return Call(method="POST", path=chat.PATH, json=chat.body(source, given(options, ChatOptions)), parse=chat.answer)


def stream(source: Document, options: ChatOptions) -> Call[Any]:
    """The same as a stream."""
    body = chat.body(source, given(options, ChatOptions)) | chat.STREAM
    return Call(method="POST", path=chat.PATH, json=body, parse=_raw)


def extract(source: Document, schema: Mapping[str, Any], options: ChatOptions) -> Call[dict[str, Any]]:
    """The same, held to a JSON schema: the first page, unless the options name another. Opens files."""
    said = {"pages": "1"} | given(options, ChatOptions)
    body = chat.body(source, said) | {"response_format": chat.json_schema(schema)}
    return Call(method="POST", path=chat.PATH, json=body, parse=lambda response: chat.parsed(chat.answer(response)))


def submit(source: Document, options: SubmitOptions) -> Call[Job]:
    """`POST /ocr` with the document as an upload. Opens files."""
    document, form = jobs.upload(source, given(options, SubmitOptions))
    files = {"file": (document.name, document.data, document.media_type)}
    return Call(method="POST", path="/ocr", data=form, files=files, parse=lambda r: jobs.submitted(r, document.name))


def job(job_id: str) -> Call[Job]:
    """`GET /ocr/{id}`."""
    return Call(method="GET", path=_job(job_id), parse=lambda r: jobs.job(r.json()), seconds=QUICK)


def listed(limit: int | None, state: str | None) -> Call[list[Job]]:
    """`GET /jobs`."""
    asked = {"limit": str(limit or ""), "status": state or ""}
    params = {name: value for name, value in asked.items() if value}
    return Call(method="GET", path="/jobs", params=params, parse=jobs.listed, seconds=QUICK)


def cancel(job_id: str) -> Call[Job]:
    """`POST /ocr/{id}/cancel`."""
    return Call(method="POST", path=f"{_job(job_id)}/cancel", parse=lambda r: jobs.job(r.json()), seconds=QUICK)


def delete(job_id: str) -> Call[None]:
    """`DELETE /ocr/{id}`."""
    return Call(method="DELETE", path=_job(job_id), parse=lambda _response: None, seconds=QUICK)


def events(job_id: str, headers: Mapping[str, str]) -> Call[Any]:
    """`GET /ocr/{id}/events`."""
    return Call(method="GET", path=f"{_job(job_id)}/events", headers=headers, parse=_raw, seconds=2 * QUICK)


def models() -> Call[Models]:
    """`GET /models`."""
    return Call(method="GET", path="/models", parse=_models, seconds=QUICK)


def current_model() -> Call[str]:
    """`GET /models/current`: what was switched to, empty before that."""
    return Call(method="GET", path="/models/current", parse=lambda r: r.json()["model"] or "", seconds=QUICK)


def switch_model(name: str) -> Call[str]:
    """`POST /models/switch`."""
    body = {"model": name}
    return Call(
        method="POST",
        path="/models/switch",
        json=body,
        parse=lambda response: str(response.json()["current_model"]),
        seconds=QUICK,
    )


def health() -> Call[dict[str, Any]]:
    """`GET /health` as JSON."""
    return Call(method="GET", path="/health", headers=_JSON, parse=_object, seconds=QUICK)


def _job(job_id: str) -> str:
    return f"/ocr/{quote(job_id, safe='')}"


def _reading(response: httpx.Response) -> Reading:
    said = response.headers["X-OCR-MLX-Status"]
    counted = "=" in said
    statuses = () if counted else tuple(said.split(",")) if said else ()
    pairs = (item.partition("=") for item in said.split(";"))
    counts = {name: int(count) for name, _, count in pairs} if counted else dict(Counter(statuses))
    model = unquote(response.headers.get("X-OCR-MLX-Model", ""))
    return Reading(text=response.text, model=model, statuses=statuses, counts=counts)


def _models(response: httpx.Response) -> Models:
    found = response.json()
    return Models(
        models=tuple(
            Model(
                name=item["name"],
                is_loaded=bool(item["is_loaded"]),
                is_available=bool(item["is_available"]),
                status=item["status"],
                progress=item.get("progress"),
                message=item.get("message") or "",
            )
            for item in found["models"]
        ),
        current=found.get("current_model"),
        default=found.get("default_model") or "",
    )


def _object(response: httpx.Response) -> dict[str, Any]:
    found = response.json()
    return found if isinstance(found, dict) else {"value": found}


def _raw(response: httpx.Response) -> httpx.Response:
    return response
