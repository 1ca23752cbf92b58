"""What goes out and what comes back, for both clients."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocr_mlx.client import BadAnswer, Model, NotReachable, OcrClientError, Refused, ServerFailed, TimedOut
from tests.unit.client.talking import Server, chat, job, text

Ask = Callable[..., Any]
PNG = b"\x89PNG\r\n\x1a\nrest"
PDF = b"%PDF-1.7 rest"


def body(request: httpx.Request) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.content)
    return found


def uri(media: str, data: bytes) -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def test_reading_sends_the_bytes_of_a_path_and_tells_of_each_page(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(PNG)
    server = Server(text("one\n\ntwo", "ok,truncated"))
    found = ask(server, "read", path, pages="1-2", max_tokens=9, mode=None)
    request = server.requests[0]
    assert (request.method, request.url.path) == ("POST", "/ocr")
    assert request.headers["authorization"] == "Bearer secret"
    assert body(request) == {"filename": uri("image/png", PNG), "pages": "1-2", "max_tokens": 9}
    assert (str(found), found.statuses, found.model) == ("one\n\ntwo", ("ok", "truncated"), "a+b")
    assert found.counts == {"ok": 1, "truncated": 1} and not found.is_whole


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        (PDF, uri("application/pdf", PDF)),
        (io.BytesIO(PNG), uri("image/png", PNG)),
        ("https://example.org/a.pdf", "https://example.org/a.pdf"),
        ("file:///srv/a.png", "file:///srv/a.png"),
        (memoryview(PNG), uri("image/png", PNG)),
    ],
)
def test_every_kind_of_document(ask: Ask, source: Any, sent: str) -> None:
    if isinstance(source, io.BytesIO):
        source.seek(0)
    server = Server(text(""))
    ask(server, "read", source)
    assert body(server.requests[0])["filename"] == sent


def test_many_pages_are_counted(ask: Ask) -> None:
    found = ask(Server(text("x", "ok=998;failed=2")), "read", PNG)
    assert found.statuses == () and found.counts == {"ok": 998, "failed": 2} and not found.is_whole


def test_asking_uses_the_chat_surface(ask: Ask) -> None:
    server = Server(chat("Hello", "length", ("truncated",)))
    found = ask(
        server, "ask", PDF, model="deepseek", prompt="Free OCR.", system="Be brief.", seed=1, timeout=9.5, fresh=True
    )
    assert server.requests[0].url.path == "/v1/chat/completions"
    assert body(server.requests[0]) == {
        "model": "deepseek",
        "seed": 1,
        "timeout": 9.5,
        "fresh": True,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "file", "file": {"filename": "document", "file_data": uri("application/pdf", PDF)}},
                    {"type": "text", "text": "Free OCR."},
                ],
            },
        ],
    }
    assert (found.text, found.finish_reason, found.confidence) == ("Hello", "length", 0.5)
    assert found.usage["total_tokens"] == 7 and found.statuses == ("truncated",)


def test_a_chat_without_a_model_takes_what_was_switched_to_else_the_default(ask: Ask) -> None:
    switched = Server(httpx.Response(200, json={"model": "got"}), chat(""))
    ask(switched, "ask", PNG)
    assert body(switched.requests[-1])["model"] == "got"
    nothing = Server(httpx.Response(200, json={"model": None}), httpx.Response(200, json={"model": "d"}), chat(""))
    ask(nothing, "ask", PNG)
    assert [request.url.path for request in nothing.requests][:2] == ["/models/current", "/health"]
    assert nothing.requests[1].headers["accept"] == "application/json"
    assert body(nothing.requests[-1])["model"] == "d"


def test_the_clients_own_model_is_for_calls_that_name_none(ask: Ask) -> None:
    for method, answer in (("read", text("")), ("ask", chat(""))):
        server = Server(answer)
        ask(server, method, PNG, client_model="builtin")
        ask(server, method, PNG, client_model="builtin", model="got")
        assert [body(request)["model"] for request in server.requests] == ["builtin", "got"]


def test_extracting_sends_the_schema_and_gives_the_object(ask: Ask) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    server = Server(chat('{"a": 1}'))
    assert ask(server, "extract", PNG, schema, model="qwen", prompt="a?") == {"a": 1}
    sent = body(server.requests[0])
    form = sent["response_format"]["json_schema"]
    assert form["schema"] == schema and form["strict"] is True and sent["pages"] == "1"
    assert sent["messages"][0]["content"][0] == {"type": "image_url", "image_url": {"url": uri("image/png", PNG)}}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (chat('{"a": ', "length"), "max_tokens"),
        (chat('{"a": 1}\n\n{"a": 2}', pages=("ok", "ok")), "one page at a time"),
        (chat("", pages=("blank",)), "blank"),
        (chat("no"), "no JSON"),
        (chat("[1]"), "no object"),
        (httpx.Response(200, text="<html>"), "no chat completion"),
    ],
)
def test_an_answer_that_is_no_object_says_why(ask: Ask, answer: httpx.Response, why: str) -> None:
    with pytest.raises(BadAnswer, match=why):
        ask(Server(answer), "extract", PNG, {"type": "object"}, model="m")


def test_submitting_uploads_the_document(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "two.pdf"
    path.write_bytes(PDF)
    server = Server(httpx.Response(202, json={"job_id": "j", "message": "taken"}))
    found = ask(server, "submit", path, model="builtin", pages="1", dpi=100, webhook_url="https://example.org/hook")
    request = server.requests[0]
    form = request.content.decode("latin-1")
    assert request.url.path == "/ocr" and request.headers["content-type"].startswith("multipart/form-data")
    for name, value in {
        "engine": "builtin",
        "pages": "1",
        "dpi": "100",
        "webhook_url": "https://example.org/hook",
    }.items():
        assert f'name="{name}"\r\n\r\n{value}\r\n' in form
    assert 'name="file"; filename="two.pdf"\r\nContent-Type: application/pdf\r\n\r\n%PDF-1.7 rest' in form
    assert (found.id, found.state, found.filename) == ("j", "pending", "two.pdf")


def test_an_address_cannot_be_uploaded(ask: Ask) -> None:
    with pytest.raises(ValueError, match="cannot be uploaded"):
        ask(Server(text("")), "submit", "https://example.org/a.pdf")


def test_jobs(ask: Ask) -> None:
    result = {"text": "=== Page 1 of 1 ===\nHi", "formatted_text": "Hi", "confidence": 0.9}
    server = Server(httpx.Response(200, json=job(result=result)))
    found = ask(server, "job", "j")
    assert server.requests[0].url.path == "/ocr/j"
    assert (found.state, found.text, found.confidence, found.done, found.statuses) == (
        "completed",
        "Hi",
        0.9,
        1,
        ("ok",),
    )
    assert found.is_final and found.model == "builtin"

    server = Server(httpx.Response(200, json=job("failed", cancelled=True, error="gone")))
    assert ask(server, "cancel", "j").state == "cancelled"
    assert (server.requests[0].method, server.requests[0].url.path) == ("POST", "/ocr/j/cancel")

    server = Server(httpx.Response(200, json={"jobs": [job("processing", 1, 3)]}))
    assert [(one.state, one.total) for one in ask(server, "jobs", limit=5, state="processing")] == [("processing", 3)]
    assert dict(server.requests[0].url.params) == {"limit": "5", "status": "processing"}

    server = Server(httpx.Response(204))
    assert ask(server, "delete", "a/../b") is None
    assert server.requests[0].method == "DELETE" and server.requests[0].url.raw_path == b"/ocr/a%2F..%2Fb"


def test_models(ask: Ask) -> None:
    entry = {"name": "got", "is_loaded": False, "is_available": True, "status": "ready", "progress": 100, "message": ""}
    server = Server(httpx.Response(200, json={"models": [entry], "current_model": None, "default_model": "qari"}))
    found = ask(server, "models")
    assert found.models == (Model(name="got", is_loaded=False, is_available=True, status="ready", progress=100),)
    assert (found.current, found.default) == (None, "qari")
    server = Server(httpx.Response(200, json={"previous_model": None, "current_model": "got", "message": "set"}))
    assert ask(server, "switch_model", "got") == "got"
    assert body(server.requests[0]) == {"model": "got"}


def test_one_stop_string_is_as_good_as_a_list(ask: Ask) -> None:
    for method, answer in (("read", text("")), ("ask", chat(""))):
        server = Server(answer)
        ask(server, method, PNG, model="m", stop="END")
        ask(server, method, PNG, model="m", stop=("END", "."))
        assert [body(request)["stop"] for request in server.requests] == [["END"], ["END", "."]]


def test_options_that_are_not_known_are_refused_here(ask: Ask) -> None:
    with pytest.raises(TypeError, match="tempreture"):
        ask(Server(text("")), "read", PNG, tempreture=1)


@pytest.mark.parametrize(
    ("answer", "kind", "message", "code"),
    [
        (httpx.Response(404, text="No x.", headers={"X-OCR-MLX-Error": "unknown_model"}), Refused, "No x.", "unknown_model"),
        (httpx.Response(400, json={"detail": "Not so."}), Refused, "Not so.", ""),
        (httpx.Response(422, json={"detail": [{"loc": ["body", "dpi"], "msg": "too small"}]}), Refused, "dpi: too small", ""),
        (httpx.Response(401, json={"error": {"message": "Who?", "code": "token"}}), Refused, "Who?", "token"),
        (httpx.Response(500, json={"error": "An internal error", "detail": ""}), ServerFailed, "An internal error", ""),
        (httpx.Response(502), ServerFailed, "502", ""),
        (httpx.Response(504, text="late"), TimedOut, "late", ""),
    ],
)  # fmt: skip
def test_errors_in_every_shape(
    ask: Ask, answer: httpx.Response, kind: type[OcrClientError], message: str, code: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        ask(Server(answer), "read", PNG)
    assert (caught.value.status, caught.value.code) == (answer.status_code, code)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError("no"), NotReachable),
        (httpx.ConnectTimeout("no"), NotReachable),
        (httpx.ReadTimeout("no"), TimedOut),
        (httpx.RemoteProtocolError("no"), ServerFailed),
    ],
)
def test_errors_of_the_connection(ask: Ask, error: Exception, kind: type[OcrClientError]) -> None:
    with pytest.raises(kind, match=r"127\.0\.0\.1:1") as caught:
        ask(Server(error), "read", PNG)
    assert caught.value.status is None


def test_an_answer_of_another_kind_of_server(ask: Ask) -> None:
    for method, arguments in (("read", (PNG,)), ("models", ()), ("job", ("j",)), ("jobs", ())):
        with pytest.raises(BadAnswer):
            ask(Server(httpx.Response(200, text="<html>Hello</html>")), method, *arguments)
    with pytest.raises(BadAnswer, match="elsewhere"):
        ask(Server(httpx.Response(307, headers={"Location": "https://elsewhere"})), "read", PNG)


def test_a_busy_server_is_asked_again_when_it_says(ask: Ask, slept: list[float]) -> None:
    busy, soon = httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(503)
    server = Server(busy, soon, text("Hi"))
    assert str(ask(server, "read", PNG)) == "Hi"
    assert slept == [7.0, 1.0] and len(server.requests) == 3
    assert server.requests[0].content == server.requests[2].content


def test_a_busy_server_is_not_asked_for_ever(ask: Ask, slept: list[float]) -> None:
    busy = httpx.Response(429, headers={"Retry-After": "1"}, text="full")
    for retries, most in ((3, 4), (0, 1)):
        server = Server(busy)
        with pytest.raises(Refused, match="full"):
            ask(server, "read", PNG, retries=retries)
        assert len(server.requests) == most
    assert slept == [1.0, 1.0, 1.0]
    slow = Server(httpx.Response(503, headers={"Retry-After": "3600"}))
    with pytest.raises(ServerFailed):
        ask(slow, "read", PNG)
    assert len(slow.requests) == 1
