"""What a request may name as its model: no engine that is not listed, no folder outside the roots, on every route."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, serving

DATA = "data:image/png;base64,iVBORw0KGgo="
CHAT = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA}}]}]
FILE = {"file": ("a.png", b"\x89PNG\r\n\x1a\n", "image/png")}
ROUTES: dict[str, Callable[[httpx.Client, str], httpx.Response]] = {
    "ocr": lambda client, name: client.post("/ocr", json={"filename": DATA, "model": name}),
    "stream": lambda client, name: client.post(
        "/ocr", json={"filename": DATA, "model": name}, headers={"Accept": "text/event-stream"}
    ),
    "chat": lambda client, name: client.post("/v1/chat/completions", json={"model": name, "messages": CHAT}),
    "responses": lambda client, name: client.post("/v1/responses", json={"model": name, "input": CHAT}),
    "job": lambda client, name: client.post("/ocr", files=FILE, data={"engine": name}),
    "job by model": lambda client, name: client.post("/ocr/pdf", files=FILE, data={"model": name}),
    "switch": lambda client, name: client.post("/models/switch", json={"model": name}),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeService, httpx.Client]]:
    service, folder = FakeService(), tmp_path_factory.mktemp("fence")
    (folder / "in" / "model").mkdir(parents=True)
    (folder / "out" / "model").mkdir(parents=True)
    settings = Settings(file_roots=(folder / "in",), remote_hosts=("listed:8000",))
    with serving(service, settings) as url, httpx.Client(base_url=url) as client:
        yield service, client


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next(tmp_path_factory.getbasetemp().glob("fence*"))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "name",
    [
        "openai+http://169.254.169.254/latest#meta-data",
        "OpenAI+http://127.0.0.1:22/v1#m",
        " openai+http://localhost:6379/v1#m",
        "openai+http://listed:8001/v1#m",
        "openai+http://listed:8000@127.0.0.1/v1#m",
        "openai+file:///etc/passwd#m",
        "openai+gopher://127.0.0.1:25/_#m",
    ],
)
def test_no_engine_is_asked_that_is_not_listed(
    running: tuple[FakeService, httpx.Client], route: str, name: str
) -> None:
    service, client = running
    answer = ROUTES[route](client, name)
    assert 400 <= answer.status_code < 500, answer.text
    assert not service.requests


@pytest.mark.parametrize("route", [route for route in ROUTES if route != "switch"])
def test_a_listed_engine_is_asked(running: tuple[FakeService, httpx.Client], route: str) -> None:
    _, client = running
    answer = ROUTES[route](client, "openai+http://listed:8000/v1#m")
    assert answer.status_code in (200, 202) or "File type mismatch" in answer.text, answer.text


@pytest.mark.parametrize("route", ROUTES)
def test_a_folder_outside_the_roots_is_refused_whether_it_is_there_or_not(
    running: tuple[FakeService, httpx.Client], folder: Path, route: str
) -> None:
    service, client = running
    service.requests.clear()
    said = set()
    for name in (
        folder / "out" / "model",
        folder / "out" / "none",
        folder / "in" / ".." / "out" / "model",
        Path("/usr/lib"),
    ):
        answer = ROUTES[route](client, str(name))
        assert 400 <= answer.status_code < 500, answer.text
        said.add((answer.status_code, answer.text.replace(str(name), "NAME")))
    assert len(said) == 1 and not service.requests


@pytest.mark.parametrize("name", ["/a\0b", "~nobody-of-this-name/model", "/\ud800", "/" + "x" * 5000, "~" + "\0"])
def test_names_that_no_folder_can_have(running: tuple[FakeService, httpx.Client], name: str) -> None:
    service, client = running
    service.requests.clear()
    for route, document in (("/ocr", {"filename": DATA}), ("/v1/chat/completions", {"messages": CHAT})):
        body = json.dumps(document | {"model": name})
        answer = client.post(route, content=body, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, answer.text
    assert not service.requests


def test_a_folder_inside_the_roots_is_read(running: tuple[FakeService, httpx.Client], folder: Path) -> None:
    service, client = running
    assert ROUTES["ocr"](client, str(folder / "in" / "model")).status_code == 200
    assert service.requests.pop().model == str(folder / "in" / "model")
