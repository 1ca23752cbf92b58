"""Whatever a web page of another site can make a browser send, and what somebody sends who writes bytes by hand."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from ocr_mlx.jobs.records import JobRequest
from ocr_mlx.server.app import create_app
from ocr_mlx.server.guard import INSTANCE_HEADER, ISOLATED
from ocr_mlx.settings import Settings
from tests.wire.fake_jobs import FakeJobs
from tests.wire.fakes import FakeService, context, serving

APP = "https://app.example"
SECRET = "mY-s3cret-t0ken"
EVIL = "https://evil.example"
MOZILLA = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/14.1 Safari/605.1.15"
CLOSED = {"/shutdown", "/logs", "/metrics"}
"""Have an effect or a secret."""
READABLE = {
    "/",
    "/api/history",
    "/api/history/{history_id}",
    "/api/history/{history_id}/download",
    "/api/modes",
    "/api/progress/{task_id}",
    "/api/v1/openapi.json",
    "/docs",
    "/health",
    "/info",
    "/jobs",
    "/livez",
    "/models",
    "/models/current",
    "/models/{name:path}/status",
    "/ocr/pdf",
    "/ocr/{job_id}",
    "/ocr/{job_id}/events",
    "/openapi.json",
    "/readyz",
    "/redoc",
    "/v1/health",
    "/v1/models",
    "/v1/models/{model:path}",
}
"""Change nothing, and no page of another site can read their answers."""
BODY = b'{"filename": "data:image/png;base64,eA==", "model": "evil"}'


class Place:
    """A server, and all that a request could change there."""

    def __init__(self, url: str, service: FakeService, jobs: FakeJobs, history: Path, ended: list[str]) -> None:
        self.url, self.service, self.jobs, self.history, self.ended = url, service, jobs, history, ended
        self.client = httpx.Client(base_url=url, trust_env=False)
        self.port = int(url.rpartition(":")[2])
        self.job = next(iter(jobs.kept))

    def seen(self) -> Any:
        """What it has done so far."""
        assert self.client.get("/livez").status_code == 200
        files = sorted(str(path) for path in self.history.rglob("*"))
        jobs = [(job.id, job.state) for job in self.jobs.kept.values()]
        done = (self.ended, self.service.requests, self.service.shown, self.service.cache.asked, self.jobs.said)
        return [list(one) for one in done], jobs, self.jobs.current, files

    def path(self, template: str) -> str:
        """An address that a route with this template answers."""
        return re.sub(r"\{.*?\}", "builtin", template.replace("{job_id}", self.job))

    def raw(self, text: str) -> http.client.HTTPResponse:
        """The answer to bytes written by hand; every line feed ends a line, `$host` stands for a good Host field."""
        written = text.replace("$host", f"Host: 127.0.0.1:{self.port}").replace("\n", "\r\n").encode("latin-1")
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            sock.sendall(written)
            answer = http.client.HTTPResponse(sock, method=text.partition(" ")[0])
            answer.begin()
            answer.read()
            return answer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    jobs, history = FakeJobs(), tmp_path_factory.mktemp("history")
    jobs.submit(b"x", JobRequest(model="builtin"), filename="a.png", engine="builtin")
    service, ended = FakeService(), list[str]()
    settings = Settings(allowed_origins=(APP,), history_dir=history)
    with serving(service, settings, jobs, shutdown=lambda: ended.append("ended")) as url:
        place = Place(url, service, jobs, history, ended)
        with place.client:
            yield place


@pytest.fixture(autouse=True)
def _nothing_happens(place: Place) -> Iterator[None]:
    before = place.seen()
    yield
    assert place.seen() == before


def routes() -> dict[str, set[str]]:
    """Template to methods, of every route there is."""
    found: dict[str, set[str]] = {}
    for route in iter_route_contexts(create_app(context(FakeService())).routes):
        found.setdefault(str(route.path), set()).update(route.methods or ())
    return found


ROUTES = routes()
READS = sorted(path for path, methods in ROUTES.items() if "GET" in methods)
WRITES = sorted((method, path) for path, found in ROUTES.items() for method in found - {"GET", "HEAD"})


def sent_by(site: str, mode: str, dest: str) -> dict[str, str]:
    return {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest, "User-Agent": MOZILLA}


PARTS = [
    sent_by(site, mode, dest)
    for site in ("cross-site", "same-site")
    for mode, dest in (
        ("no-cors", "image"),
        ("no-cors", "script"),
        ("no-cors", "style"),
        ("no-cors", "empty"),
        ("navigate", "iframe"),
        ("navigate", "object"),
    )
]
"""As a part of a page: an image tag, a script tag, a fetch without CORS, a frame."""
VISIT = sent_by("cross-site", "navigate", "document")
OLD = [
    {"User-Agent": MOZILLA, "Accept": "image/webp,*/*"},
    {"User-Agent": MOZILLA, "Accept": "*/*", "Referer": f"{EVIL}/"},
    {"User-Agent": "App/1.0", "Accept": "image/png,image/svg+xml,image/*;q=0.8"},
    {"User-Agent": "App/1.0", "Referer": f"{EVIL}/"},
]
"""Browsers and web views that say nothing about the page."""


def test_every_route_that_is_read_is_known_here() -> None:
    """Decide for a new one whether it has a secret or an effect; then it refuses pages."""
    assert set(READS) == CLOSED | READABLE


def test_no_part_of_another_sites_page_is_answered(place: Place) -> None:
    answers = {
        (path, *headers.values()): place.client.get(place.path(path), headers=headers).status_code
        for path in READS
        for headers in PARTS
    }
    assert set(answers.values()) == {403}, answers


def test_a_visit_changes_nothing_and_closed_routes_refuse_it(place: Place) -> None:
    for path in READS:
        if path == "/ocr/{job_id}/events":
            continue  # answers until the job has ended
        status = place.client.get(place.path(path), headers=VISIT).status_code
        assert (status == 403) == (path in CLOSED) and status < 500, path


def test_an_address_that_was_typed_may_be_a_redirect_and_ends_nothing(place: Place) -> None:
    typed = sent_by("none", "navigate", "document")
    assert place.client.get("/shutdown", headers=typed).status_code == 403
    assert place.client.get("/logs", headers=typed).status_code == 200


@pytest.mark.parametrize("headers", OLD)
@pytest.mark.parametrize("path", sorted(CLOSED))
def test_old_browsers_are_not_asked_twice(place: Place, path: str, headers: dict[str, str]) -> None:
    assert place.client.get(f"{path}", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"User-Agent": "curl/8.7.1", "Accept": "*/*"},
        {"User-Agent": "reqwest/0.12"},
        {"User-Agent": "Mozilla/5.0 (Macintosh; Darwin 23.1.0; en-US) PowerShell/7.4.1"},
        sent_by("none", "no-cors", "empty"),  # Electron's main process
        sent_by("same-origin", "cors", "empty"),  # this server's own pages
    ],
)
def test_programs_are_let_in(place: Place, headers: dict[str, str]) -> None:
    assert {place.client.get(f"{path}", headers=headers).status_code for path in ("/logs", "/jobs")} == {200}


FORM = b'Content-Disposition: form-data; name="file"; filename="a.png"'
FORMS = {
    "text/plain": BODY,
    "application/x-www-form-urlencoded": b"filename=data%3A",
    "multipart/form-data; boundary=b": b"--b\r\n" + FORM + b"\r\n\r\nx\r\n--b--\r\n",
    "application/json": BODY,
    "text/ping": b"PING",
    "": b"",
}
"""What forms, fetches without CORS, beacons and `<a ping>` can send."""
STRANGERS: list[dict[str, str]] = [
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Origin": f"{APP}.evil.example"},
    {"Origin": APP.replace("https", "http")},
    {"Origin": f"{APP}, {EVIL}"},
    {"Origin": ""},
    sent_by("cross-site", "navigate", "document"),
    sent_by("same-site", "no-cors", "empty"),
    {"User-Agent": MOZILLA},
]


@pytest.mark.parametrize("headers", STRANGERS, ids=str)
def test_no_page_of_another_site_changes_anything(place: Place, headers: dict[str, str]) -> None:
    for method, path in WRITES:
        for kind, content in FORMS.items():
            typed = {"Content-Type": kind} if kind else {}
            answer = place.client.request(method, place.path(path), headers=headers | typed, content=content)
            assert answer.status_code == 403, (method, path, kind)
            assert "access-control-allow-origin" not in answer.headers


def test_what_a_form_can_send_is_refused_for_its_type_too(place: Place) -> None:
    """Programs send these as well; the second line, should a browser ever forget its Origin."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "text/plain; application/json"):
        answer = place.client.post("/ocr", headers={"Content-Type": kind}, content=BODY)
        assert answer.status_code == 415, kind


HOSTS = [
    "evil.example:PORT",
    "evil.example",
    "127.0.0.1",
    "localhost",
    "127.0.0.1:1",
    "localhost.:PORT",
    "127.0.0.1.:PORT",
    "user@127.0.0.1:PORT",
    "evil.example@127.0.0.1:PORT",
    "127.0.0.1:PORT@evil.example",
    "127.0.0.1:PORT.evil.example",
    "127.0.0.1:0PORT",
    "127.0.0.1:+PORT",
    "127.0.0.1: PORT",
    "127.0.0.1:PORT, evil.example",
    "127.0.0.1:PORT evil.example",
    "127.0.0.1:PORT/",
    "127.0.0.1:PORT:80",
    "127.0.0.1:PORT:PORT",
    "127.0.0.1:",
    ":PORT",
    "2130706433:PORT",
    "0x7f000001:PORT",
    "0177.0.0.1:PORT",
    "127.1:PORT",
    "127.0.0.2:PORT",
    "0.0.0.0:PORT",
    "::1:PORT",
    "[::]:PORT",
    "[0:0:0:0:0:0:0:1]:PORT",
    "[::ffff:127.0.0.1]:PORT",
    "[::1%25lo]:PORT",
    "localhost\xa0:PORT",
    "localhost%2eevil.example:PORT",
    "http://127.0.0.1:PORT",
    "",
]


@pytest.mark.parametrize("host", HOSTS)
def test_only_this_servers_exact_names_are_a_host(place: Place, host: str) -> None:
    answer = place.raw(f"POST /shutdown HTTP/1.1\nHost: {host.replace('PORT', str(place.port))}\n\n")
    assert answer.status in (400, 403)


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "LOCALHOST:PORT", "[::1]:PORT", "\t127.0.0.1:PORT \t"])
def test_its_own_names_are(place: Place, host: str) -> None:
    assert place.raw(f"GET /livez HTTP/1.1\nHost: {host.replace('PORT', str(place.port))}\n\n").status == 200


SMUGGLED = {
    "two hosts": ("POST /shutdown HTTP/1.1\n$host\nHost: evil.example\n\n", {400}),
    "the same host twice": ("POST /shutdown HTTP/1.1\n$host\n$host\n\n", {400}),
    "no host": ("POST /shutdown HTTP/1.1\n\n", {400, 403}),
    "no host in 1.0": ("GET /shutdown HTTP/1.0\n\n", {403}),
    "a host in an absolute target": ("POST http://evil.example/shutdown HTTP/1.1\n$host\n\n", {404}),
    "our own in an absolute target": ("GET http://localhost/shutdown HTTP/1.1\nHost: evil.example\n\n", {403}),
    "a host on two lines": ("POST /shutdown HTTP/1.1\nHost:\n 127.0.0.1\n\n", {400, 403}),
    "a folded origin": (f"POST /shutdown HTTP/1.1\n$host\nOrigin:\n {EVIL}\n\n", {400, 403}),
    "an origin behind a space": (f"POST /shutdown HTTP/1.1\n$host\nOrigin : {EVIL}\n\n", {400}),
    "two origins": (f"POST /shutdown HTTP/1.1\n$host\nOrigin: {APP}\nOrigin: {EVIL}\n\n", {400, 403}),
    "an origin in capitals": (f"POST /shutdown HTTP/1.1\n$host\nORIGIN: {EVIL.upper()}\n\n", {403}),
    "two lengths": (
        "POST /ocr HTTP/1.1\n$host\nContent-Type: application/json\nContent-Length: 0\nContent-Length: 5\n\n",
        {400},
    ),
    "length and chunks": (
        "POST /ocr HTTP/1.1\n$host\nContent-Type: application/json\nContent-Length: 4\nTransfer-Encoding: chunked\n\n"
        "0\n\nGET /shutdown HTTP/1.1\n$host\n\n",
        {400},
    ),
    "a strange encoding": ("POST /ocr HTTP/1.1\n$host\nTransfer-Encoding: chunked, identity\n\n0\n\n", {400, 501}),
    "two types": (
        f"POST /ocr HTTP/1.1\n$host\nContent-Type: text/plain\nContent-Type: application/json\nContent-Length: {len(BODY)}\n\n"
        + BODY.decode(),
        {400},
    ),
    "two tokens": ("POST /ocr HTTP/1.1\n$host\nAuthorization: Bearer a\nAuthorization: Bearer b\n\n", {400}),
    "forwarded for us": (
        "POST /shutdown HTTP/1.1\nHost: evil.example\nX-Forwarded-Host: 127.0.0.1\nX-Forwarded-For: 127.0.0.1\n"
        "Forwarded: host=127.0.0.1;for=127.0.0.1\nX-Real-IP: 127.0.0.1\nX-Original-URL: /shutdown\n\n",
        {403},
    ),
    "another method underneath": (
        "GET /models/evict HTTP/1.1\n$host\nX-HTTP-Method-Override: POST\nX-Method-Override: POST\nX-HTTP-Method: POST\n\n",
        {404, 405},
    ),
    "another method in the query": ("GET /models/evict?_method=POST HTTP/1.1\n$host\n\n", {404, 405}),
    "another address underneath": (
        "GET /livez HTTP/1.1\n$host\nX-Original-URL: /shutdown\nX-Rewrite-URL: /shutdown\n\n",
        {200},
    ),
    "options": ("OPTIONS /shutdown HTTP/1.1\n$host\n\n", {405}),
    "options of all": ("OPTIONS * HTTP/1.1\n$host\n\n", {404, 405}),
    "trace": ("TRACE /shutdown HTTP/1.1\n$host\n\n", {405}),
    "connect": ("CONNECT 127.0.0.1:80 HTTP/1.1\n$host\n\n", {404, 405}),
    "a method of one's own": ("SHUTDOWN /shutdown HTTP/1.1\n$host\n\n", {405}),
    "a method in small letters": ("post /shutdown HTTP/1.1\n$host\n\n", {400, 405}),
    "head": ("HEAD /shutdown HTTP/1.1\n$host\n\n", {405}),
    "HTTP/2 by upgrade": (
        "POST /shutdown HTTP/1.1\nHost: evil.example\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\n"
        "HTTP2-Settings: AAMAAABk\n\n",
        {403},
    ),
    "HTTP/2 at once": ("PRI * HTTP/2.0\n\nSM\n\n", {400, 403}),
    "two slashes": ("GET //shutdown HTTP/1.1\n$host\n\n", {404}),
    "a dot on the way": ("GET /livez/../shutdown HTTP/1.1\n$host\n\n", {404}),
    "a coded dot on the way": ("GET /livez/%2e%2e/shutdown HTTP/1.1\n$host\n\n", {404}),
    "a coded slash": ("GET /livez%2f..%2fshutdown HTTP/1.1\n$host\n\n", {404}),
    "a parameter": ("GET /shutdown;x=1 HTTP/1.1\n$host\n\n", {404}),
    "a null": ("GET /shutdown%00 HTTP/1.1\n$host\n\n", {404}),
    "capitals": ("GET /SHUTDOWN HTTP/1.1\n$host\n\n", {404}),
    "a slash behind": (f"GET /shutdown/ HTTP/1.1\n$host\nOrigin: {EVIL}\n\n", {403}),
    "coded letters": (f"GET /%73hutdown HTTP/1.1\n$host\nOrigin: {EVIL}\n\n", {403}),
    "coded letters of a part": ("GET /%73hutdown HTTP/1.1\n$host\nSec-Fetch-Site: cross-site\n\n", {403}),
    "coded letters of an old browser": (f"GET /%73hutdown HTTP/1.1\n$host\nUser-Agent: {MOZILLA}\n\n", {403}),
    "a bare line feed": (f"POST /shutdown HTTP/1.1\n$host\nX: a\x0bOrigin: {EVIL}\nOrigin: {EVIL}\n\n", {400, 403}),
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_nothing_is_smuggled_past_the_guards(place: Place, name: str) -> None:
    text, expected = SMUGGLED[name]
    assert place.raw(text).status in expected


def test_a_second_request_inside_a_refused_one_is_not_run(place: Place) -> None:
    """The body of a refused request is no request, and what stands behind two claims about its length is nothing."""
    inner = f"POST /shutdown HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\n\r\n"
    head = f"POST /ocr HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\nContent-Type: application/json\r\n"
    for text in (
        f"{head}Origin: {EVIL}\r\nContent-Length: {len(inner)}\r\n\r\n{inner}",
        f"{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
        f"{head}Content-Length: 0\r\nContent-Length: {len(inner)}\r\n\r\n{inner}",
    ):
        with socket.create_connection(("127.0.0.1", place.port), timeout=10) as sock:
            sock.sendall(text.encode())
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass


@pytest.mark.parametrize("origin", [EVIL, "null", APP, ""])
def test_no_path_becomes_a_web_socket(place: Place, origin: str) -> None:
    keys = "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
    for path in sorted(ROUTES):
        if path == "/ocr/{job_id}/events" or (path in CLOSED and not origin):
            continue  # the one streams, the others are for programs
        says = f"Origin: {origin}\n" if origin else ""
        status = place.raw(f"GET {place.path(path)} HTTP/1.1\n$host\n{says}{keys}\n").status
        assert status != 101 and (origin not in (EVIL, "null") or status == 403), path


def test_every_answer_is_isolated(place: Place) -> None:
    for method, path, headers in (
        ("GET", "/livez", {}),
        ("GET", "/docs", {}),
        ("GET", "/nothing", {}),
        ("GET", "/livez", {"Host": "evil.example"}),
        ("POST", "/shutdown", {"Origin": EVIL}),
        ("POST", "/v1/responses", {"Content-Type": "application/json"}),
    ):
        told = place.client.request(method, path, headers=headers).headers
        assert {name: told.get(name) for name in ISOLATED} == ISOLATED
        assert "set-cookie" not in told and "server" not in told


@pytest.mark.parametrize(
    "text", ["nonsense\n\n", "GET / HTTP/1.1\n\n", "GET / HTTP/1.1\n$host\nHost: evil.example\n\n"]
)
def test_the_answer_to_what_is_no_request_is_named_and_isolated(place: Place, text: str) -> None:
    answer = place.raw(text)
    told = {name: answer.headers.get_all(name) for name in (INSTANCE_HEADER, *ISOLATED)}
    assert answer.status == 400 and told == {
        name: [value] for name, value in {INSTANCE_HEADER: "test-instance", **ISOLATED}.items()
    }


@pytest.mark.parametrize(("origin", "status"), [(APP, 200), (EVIL, 403), ("null", 403)])
def test_a_private_networks_preflight(place: Place, origin: str, status: int) -> None:
    """Chrome asks this way before a public page may reach this machine."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
        "Access-Control-Request-Private-Network": "true",
    }
    answer = place.client.options("/ocr", headers=asked)
    assert answer.status_code == status
    told = answer.headers.get("access-control-allow-private-network")
    assert told == ("true" if origin == APP else None)
    assert "access-control-allow-credentials" not in answer.headers


def test_a_machines_own_addresses_are_hosts_where_it_listens_on_all(tmp_path: Path) -> None:
    """No page can have an address for its name; the port must be right."""
    everywhere = Settings(host="0.0.0.0", token="t", history_dir=tmp_path)
    with serving(FakeService(), everywhere) as url:
        port = url.rpartition(":")[2]
        for host, status in ((f"127.0.0.1:{port}", 200), (f"192.0.2.7:{port}", 403), (f"0.0.0.0:{port}", 403)):
            assert httpx.get(f"{url}/livez", headers={"Host": host}).status_code == status


@pytest.fixture(scope="module")
def guarded() -> Iterator[httpx.Client]:
    with serving(FakeService(), Settings(token=SECRET)) as url, httpx.Client(base_url=url) as client:
        yield client


def test_no_answer_holds_the_token(guarded: httpx.Client) -> None:
    right, wrong = {"Authorization": f"Bearer {SECRET}"}, {"Authorization": f"Bearer {SECRET}x"}
    for path in ("/health", "/openapi.json", "/docs", "/metrics", "/logs", "/", "/nothing", "/v1/models", "/info"):
        for headers in (right, wrong, {}):
            answer = guarded.get(path, params={"token": f"{SECRET}x"}, headers=headers)
            assert SECRET not in answer.text and SECRET not in str(answer.headers)
    answer = guarded.post("/ocr", headers=right, json={"filename": SECRET[:-1], "model": {}})
    assert answer.status_code == 422 and SECRET not in answer.text
    assert SECRET not in repr(Settings(token=SECRET))


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer \xc3\xa9", "Bearer \xff", f"Bearer {SECRET} {SECRET}", f"Bearer\t{SECRET}", f"Bearer {SECRET},"],
)
def test_a_token_is_whole_or_wrong(guarded: httpx.Client, header: str) -> None:
    given = {b"Authorization": header.encode("latin-1")}
    assert guarded.get("/models", headers=given).status_code == 401
    assert guarded.get("/livez", headers=given).status_code == 200
