"""A real browser shows hostile pages while the real server runs, and a good one."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from tests.process.program import WAIT, Start

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: no browser attacks the server"),
]
PAGES = Path(__file__).parent / "pages"
PAGE = Path(__file__).resolve().parents[2] / "examples" / "page.png"
SECOND = "127.0.0.2"
"""Another loopback address: a name points here first, and then, as the browser sees it, at the server."""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-popup-blocking",
    "--no-first-run",
    "--remote-debugging-port=0",
    # The browser's own walls around local networks are off, so that it is the server's that hold.
    "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets,BlockInsecurePrivateNetworkRequests,"
    "PrivateNetworkAccessForNavigations,HttpsUpgrades",
)
FORBIDDEN = "This Host is not served here"
NOTHING = {"failed", "opaque", "silent", "closed", "sent", "true"}
"""What a page learns that gets no answer."""


class Site(BaseHTTPRequestHandler):
    """Somebody's web server: pages, a redirect, and an ear for what they report."""

    server: Hosting

    def do_GET(self) -> None:
        name, asked = urlsplit(self.path).path.strip("/"), parse_qs(urlsplit(self.path).query)
        if name == "go":
            return self._answer(307, b"", Location=asked["to"][0])
        if (PAGES / name).is_file():
            return self._answer(200, (PAGES / name).read_bytes(), **{"Content-Type": "text/html"})
        self._pass_on()

    def do_POST(self) -> None:
        if self.path == "/report":
            self.server.reports.put(json.loads(self._body()))
            return self._answer(204, b"")
        if self.path.startswith("/go"):
            return self.do_GET()
        self._pass_on()

    do_DELETE = do_POST

    def _pass_on(self) -> None:
        """To the server, as it came: what a browser sends once the page's name has become that address."""
        if self.server.behind is None:
            return self._answer(404, b"")
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=WAIT)) as there:
            there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                there.putheader(name, value)
            there.endheaders(self._body())
            answer = there.getresponse()
            self._answer(answer.status, answer.read())

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Hosting(ThreadingHTTPServer):
    """The web server; `behind` is a port to which it passes on what it does not know."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], behind: int | None = None) -> None:
        super().__init__(address, Site)
        self.behind = behind
        self.reports: queue.Queue[dict[str, str]] = queue.Queue()


@contextmanager
def hosting(address: str, port: int = 0, behind: int | None = None) -> Iterator[Hosting]:
    with Hosting((address, port), behind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def browser(folder: Path) -> Iterator[Callable[[str], None]]:
    """Opens addresses in windows of their own, as if somebody had typed them."""
    names = f"MAP *.elsewhere.example 127.0.0.1,MAP rebound.example {SECOND}"
    command = [str(CHROMIUM), *FLAGS, f"--host-resolver-rules={names}", f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        control = f"http://127.0.0.1:{_control_port(folder / 'DevToolsActivePort')}"
        with httpx.Client(trust_env=False, timeout=WAIT) as client:

            def open_window(url: str) -> None:
                client.put(f"{control}/json/new?{quote(url, safe='')}").raise_for_status()

            yield open_window
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(WAIT)


def _control_port(file: Path) -> int:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if file.is_file() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError("the browser does not start")


def look(url: str, path: str) -> httpx.Response:
    """The test's own request, marked so that it is told from a browser's."""
    return httpx.get(f"{url}{path}", headers={"X-Request-ID": "the-test"})


def arrived(url: str) -> Counter[tuple[str, ...]]:
    """Method and status of all that browsers have sent to the server, by its log."""
    lines = [line for line in look(url, "/logs").text.splitlines() if "[the-test]" not in line]
    return Counter(found.groups() for line in lines if (found := re.search(r"\] ([A-Z]+) (\S+) (\d{3}) \d+ ms$", line)))


def state(url: str) -> Any:
    """What a page could have changed."""
    return [look(url, path).json() for path in ("/jobs", "/models/current", "/api/history")]


def test_hostile_pages_get_nothing_and_allowed_ones_all(start: Start, tmp_path: Path) -> None:
    with ExitStack() as stack:
        elsewhere = stack.enter_context(hosting("127.0.0.1"))
        evil, good = (f"http://{name}.elsewhere.example:{elsewhere.server_port}" for name in ("evil", "good"))
        program = start("--port", "0", OCR_MLX_ALLOWED_ORIGINS=good, HOME=str(tmp_path))
        url = str(program.ready()["url"])
        port = int(url.rpartition(":")[2])
        try:
            rebound = stack.enter_context(hosting(SECOND, port, behind=port))
        except OSError:
            pytest.skip(f"there is no {SECOND} on this system: the browser's rebinding cannot be played")
        open_window = stack.enter_context(browser(tmp_path / "browser"))
        before = state(url)

        neighbour = f"http://localhost:{elsewhere.server_port}"  # to a browser the same site, on another port
        attacks = {url: evil, f"http://other.elsewhere.example:{port}": evil, f"http://localhost:{port}": neighbour}
        for base, origin in attacks.items():
            open_window(f"{origin}/hostile.html?base={base}")
        open_window(f"http://rebound.example:{port}/rebound.html")
        open_window(f"{evil}/go?to={url}/shutdown")
        told = {one.pop("base"): one for one in (elsewhere.reports.get(timeout=WAIT) for _ in attacks)}
        by_rebinding = rebound.reports.get(timeout=WAIT)

        assert told.keys() == attacks.keys()
        for learned in told.values():
            assert len(learned) == 36 and set(learned.values()) <= NOTHING | {"loaded"}, learned
            assert {name for name, what in learned.items() if what == "loaded"} <= {"object", "embed"}, learned
        assert len(by_rebinding) == 6 and all(FORBIDDEN in found for found in by_rebinding.values()), by_rebinding
        _until(lambda: arrived(url).total() >= 90 and arrived(url)["GET", "/shutdown", "403"] >= 3)
        seen = arrived(url)
        seen.pop(("GET", "-", "404"), None)  # a window's icon, of which there is none
        assert {status for _, _, status in seen} == {"403"} and seen.total() >= 90, seen
        assert seen["GET", "/shutdown", "403"] == 3, seen  # the visits that end two of the pages, and the redirect
        assert sum(number for (method, *_), number in seen.items() if method == "POST") >= 30, seen
        assert state(url) == before and program.process.poll() is None

        open_window(f"{good}/allowed.html?base={url}&page={PAGE.as_uri()}")
        allowed = elsewhere.reports.get(timeout=WAIT)
        assert allowed["JSON"].startswith("A short note on reading") and '"builtin"' in allowed["read"]
        assert "Web pages may not" in allowed["secret"] and "Web pages may not" in allowed["effect by GET"]
        assert allowed["effect"] == "Shutting down..."
        assert program.ends() == 0


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
