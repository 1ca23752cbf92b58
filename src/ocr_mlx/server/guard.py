"""What stands before every route, in this order: request log, Host, Origin, header fields, body type, token, body size.

Nothing that a web page of another site can make a browser send gets past Host and Origin, except a visit: a link that
somebody follows. Visits meet routes that change nothing; those with a secret or an effect refuse them themselves
(`refuse_pages`, `refuse_visits`), and also what an old browser sends that says nothing about the page behind it.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ocr_mlx.server.errors import answer
from ocr_mlx.settings import TAURI_ORIGINS
from ocr_mlx.utils.logs import REQUEST_ID, fields, where

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
OPEN_PATHS = frozenset({"/health", "/livez", "/readyz", "/v1/health"})
"""Answered without a token."""
QUIET_PATHS = OPEN_PATHS | {"/metrics"}
"""Asked again and again by machines: logged at level debug only."""
BODY_TYPES = ("application/json", "multipart/form-data")
INSTANCE_HEADER = "X-OCR-MLX-Instance"
ISOLATED = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
"""On every answer: no page of another site may show it, include it or hold on to its window."""
ONCE = ("authorization", "content-length", "content-type", "origin", "transfer-encoding")
"""Header fields that two readers could read differently if they came twice."""
_NAMELESS = "A web page of another site may not ask for this. OCR_MLX_ALLOWED_ORIGINS may name its origin."
_APP_AGENT = "tauri-plugin-http"
"""How the HTTP client of Tauri apps begins its User-Agent; for an app at `tauri://localhost` it says `Origin: null`."""
_PORT = re.compile(r":[0-9]+\Z")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_SECONDS = 10.0
_BODY_SECONDS = 60.0
"""Longest silence in the middle of a body."""


class RequestLog:
    """Names each request, logs and counts it when it is answered, and turns what nobody expected into a clean 500.

    What was asked for is told as the template of its route: an address may hold the name of a file.
    """

    def __init__(
        self, app: ASGIApp, *, instance: str, count: Callable[[str, str, int, float], None] = lambda *_told: None
    ) -> None:
        """`count` is told method, template, status (0: none was sent) and seconds."""
        self._app = app
        self._instance = instance
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(6)
        REQUEST_ID.set(name)
        started, status, sent = time.monotonic(), 0, 0

        async def tagged(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update({"X-Request-ID": name, INSTANCE_HEADER: self._instance} | ISOLATED)
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        except asyncio.CancelledError:  # the server ends in the middle of this request; nobody is left to answer
            log.info("cut off by the server's end")
        except Exception as error:  # the last door: the client gets an answer, the log a trace without content
            log.error("unexpected: %s", where(error))
            if status:
                raise
            await answer(scope, 500, "Internal error. The server's log has the trace under this request's id.")(
                scope, receive, tagged
            )
        finally:
            took = time.monotonic() - started
            self._count(scope["method"], route_of(scope), status, took)
            _log_request(scope, status, took, sent)


def _log_request(scope: Scope, status: int, seconds: float, sent: int) -> None:
    method, route, ms = _plain(scope["method"]), route_of(scope), 1000 * seconds
    log.log(
        logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO,
        "%s %s %d %.0f ms",
        method,
        route,
        status,
        ms,
        extra=fields(event="request", method=method, route=route, status=status, ms=round(ms, 1), bytes=sent),
    )


def route_of(scope: Scope) -> str:
    """The template of the route that a request reached, `-` when none did."""
    template = getattr(scope.get("route"), "path", None)
    if template is None and "endpoint" in scope and not scope.get("path_params"):
        # A plain route leaves no trace of itself; without parameters, its template is the path.
        template = scope["path"]
    return str(template or "-")


def _plain(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")[:20]


class HostGuard:
    """Refuses a Host that is not this server's: a page that rebinds its own name to 127.0.0.1 gets nothing."""

    def __init__(self, app: ASGIApp, *, port: int, extra: Iterable[str] = (), own_address: bool = False) -> None:
        """`extra` are names (any port), `name:port`, or `*`; `own_address` adds the address that a connection came to."""
        self._app = app
        named = frozenset(extra)
        own = {f"{name}:{port}" for name in LOOPBACK} | (set(LOOPBACK) if port == 80 else set())
        self._exact = own | {name for name in named if _PORT.search(name)}
        self._with_any_port = {name for name in named if not _PORT.search(name)}
        self._any = "*" in named
        self._own_address = own_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not self._known(Headers(scope=scope).getlist("host"), scope):
            refusal = answer(scope, 403, "This Host is not served here. OCR_MLX_ALLOWED_HOSTS may name it.")
            return await refusal(scope, receive, send)
        await self._app(scope, receive, send)

    def _known(self, hosts: list[str], scope: Scope) -> bool:
        if len(hosts) != 1:
            return False
        host = hosts[0].lower()
        if self._any or host in self._exact or _PORT.sub("", host) in self._with_any_port:
            return True
        return self._own_address and host == _address(scope)


def _address(scope: Scope) -> str:
    """Where the connection came in, as a Host field names it. No page can give its own name to an address."""
    host, port = scope.get("server") or ("", 0)
    host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class OriginGuard:
    """Refuses what a web page sends whose origin is neither allowed nor this server's own.

    Without an Origin it is what the browser says of the page that counts: one of another site gets nothing but visits. A
    browser too old to say anything may look, and change nothing. Programs say neither, and are let in.
    """

    def __init__(self, app: ASGIApp, *, allowed: Collection[str], under_api: Collection[str] = ()) -> None:
        """`under_api` are further origins for `/api/*`, `*` for every one."""
        self._app = app
        self._allowed = frozenset(allowed)
        self._under_api = frozenset(under_api)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        origins = headers.getlist("origin")
        if not origins and not _allows_nameless(scope["method"], headers):
            return await answer(scope, 403, _NAMELESS)(scope, receive, send)
        if origins and not (len(origins) == 1 and self._fits(_origin(headers), headers.get("host", "").lower(), scope)):
            setting = "OCR_MLX_DEEPSEEK_ORIGINS" if is_api(scope) else "OCR_MLX_ALLOWED_ORIGINS"
            refusal = answer(scope, 403, f"This Origin may not call the server. {setting} may name it.")
            return await refusal(scope, receive, send)
        await self._app(scope, receive, send)

    def _fits(self, origin: str, host: str, scope: Scope) -> bool:
        if origin in self._allowed or origin in (f"http://{host}", f"https://{host}"):
            return True
        return is_api(scope) and not self._under_api.isdisjoint((origin, "*"))


def _origin(headers: Headers) -> str:
    """The origin that a request names; a Tauri app's where the HTTP client of such an app says `null` for it.

    No page can pass for that client: a browser that lets pages choose a User-Agent asks first, and is refused.
    """
    origin = headers.get("origin", "").lower()
    is_app = headers.get("user-agent", "").startswith(_APP_AGENT) and "sec-fetch-site" not in headers
    return TAURI_ORIGINS[0] if origin == "null" and is_app else origin


def _allows_nameless(method: str, headers: Headers) -> bool:
    """Whether a request without an Origin may pass: a program's, the server's own page's, or a visit."""
    harmless = method in ("GET", "HEAD", "OPTIONS")
    site = headers.get("sec-fetch-site")
    if site is None:
        return harmless or not _is_browser(headers)
    return site in ("none", "same-origin") or (harmless and _is_visit(headers))


def _is_visit(headers: Headers) -> bool:
    """Whether a browser opens the address in a window of its own: not in a frame, not as part of a page."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _is_browser(headers: Headers) -> bool:
    """Whether a browser sent it. PowerShell calls itself one, and is none."""
    agent = headers.get("user-agent", "")
    return agent.startswith("Mozilla/") and "PowerShell/" not in agent


def is_api(scope: Scope) -> bool:
    """Whether the route is of the service that has an origin list of its own."""
    return str(scope["path"]).startswith("/api/")


class HeaderGuard:
    """Refuses header fields that could be read in two ways: doubled ones, and two claims about the body's length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        wrong = _ambiguous(Headers(scope=scope)) if scope["type"] == "http" else ""
        if wrong:
            return await answer(scope, 400, wrong, headers={"Connection": "close"})(scope, receive, send)
        await self._app(scope, receive, send)


def _ambiguous(headers: Headers) -> str:
    """What is wrong, empty where nothing is."""
    for name in ONCE:
        if len(headers.getlist(name)) > 1:
            return f"{name.title()} may be sent once."
    if "content-length" in headers and "transfer-encoding" in headers:
        return "Content-Length and Transfer-Encoding exclude each other."
    return ""


class BodyTypeGuard:
    """Refuses bodies of a type that no route reads. A body without a type is refused too: any page can send one."""

    def __init__(self, app: ASGIApp, *, types: Collection[str] = BODY_TYPES) -> None:
        self._app = app
        self._types = types

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in self._types and _has_body(headers):
            given = f"not {kind}" if kind else "and the request must say so in Content-Type"
            refusal = answer(scope, 415, f"The body must be {' or '.join(self._types)}, {given}.")
            return await refusal(scope, receive, send)
        await self._app(scope, receive, send)


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0").strip() != "0" or "transfer-encoding" in headers


class TokenGuard:
    """Asks for `Authorization: Bearer <token>` on everything but the health routes."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and not self._given(Headers(scope=scope)):
            given = "authorization" in Headers(scope=scope)
            words = "The token is wrong." if given else "A token is needed: Authorization: Bearer <token>."
            refusal = answer(scope, 401, words, headers={"WWW-Authenticate": "Bearer"})
            return await refusal(scope, receive, send)
        await self._app(scope, receive, send)

    def _given(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return hmac.compare_digest(token.strip().encode("latin-1"), self._token) and scheme.lower() == "bearer"


class BodySizeGuard:
    """Stops reading a body that is larger than the limit, whatever its Content-Length claims."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        """`most` in bytes."""
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        seen, more = 0, True
        most = f"{self._most / 2**20:.1f} MB"
        too_large = f"The request is larger than {most}. Send a smaller document; OCR_MLX_MAX_FILE_MB sets the limit."

        async def counted() -> Message:
            nonlocal seen, more
            message = await (_soon(receive) if more else receive())
            more = message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise HTTPException(413, too_large)
            return message

        claimed = Headers(scope=scope).get("content-length", "0")
        if claimed.isdecimal() and int(claimed) > self._most:
            if int(claimed) <= self._most + _DRAIN_BYTES:
                await _drain(receive)
            return await answer(scope, 413, too_large)(scope, receive, send)
        await self._app(scope, counted, send)


async def _soon(receive: Receive) -> Message:
    """The next part of a body. Raises HTTPException when it does not come."""
    try:
        return await asyncio.wait_for(receive(), _BODY_SECONDS)
    except TimeoutError:
        raise HTTPException(408, "The rest of the request never came.", headers={"Connection": "close"}) from None


async def _drain(receive: Receive) -> None:
    """Read and forget a body for a while, so that a client that is still sending lives to see the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while (await receive()).get("more_body", False):
                pass


def refuse_pages(request: Request) -> None:
    """For GET routes with a secret: raise 403 when a browser sent the request on behalf of any page, or does not say."""
    if _is_from_a_page(request.headers):
        raise HTTPException(403, "Web pages may not do this.")


def refuse_visits(request: Request) -> None:
    """For GET routes with an effect: raise 403 for visits as well.

    Who opens a link in a mail, or an address that answers with a redirect, is told from nobody who typed this one.
    """
    refuse_pages(request)
    if request.headers.get("sec-fetch-mode") == "navigate":
        raise HTTPException(403, "Web pages may not do this, and browsers cannot tell them apart. Send a POST.")


def _is_from_a_page(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if "origin" in headers or site is not None:
        return "origin" in headers or site not in ("none", "same-origin")
    return "referer" in headers or _is_browser(headers) or headers.get("accept", "").startswith("image/")
