"""The application: routers, error answers and guards put together. No route is defined here."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ocr_mlx import __version__
from ocr_mlx.server import docs, errors, guard, system
from ocr_mlx.server import openapi as openapi_document
from ocr_mlx.server.deepseek import routes as deepseek
from ocr_mlx.server.deps import ServerContext
from ocr_mlx.server.jobs import routes as jobs
from ocr_mlx.server.lighton import routes as lighton
from ocr_mlx.server.llm import routes as llm
from ocr_mlx.server.ocr import routes as ocr
from ocr_mlx.server.openai import routes as openai

DESCRIPTION = "Reads images and PDFs with native MLX models, on this machine."
SURFACES = (jobs, ocr, llm, openai, lighton, deepseek, system, docs)
"""Jobs stand first: they take the multipart half of `/ocr`."""
WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104
"""Addresses to listen on that stand for all of the machine's."""
EXPOSED = (
    "X-OCR-MLX-Pages",
    "X-OCR-MLX-Status",
    "X-OCR-MLX-Model",
    "X-OCR-MLX-Error",
    "X-OCR-MLX-Instance",
    "X-Request-ID",
    "Retry-After",
)
"""What scripts of an allowed origin may read of an answer's headers."""


def create_app(context: ServerContext) -> FastAPI:
    """An application around `context`; nothing runs until a server runs it."""
    app = FastAPI(
        title=docs.TITLE,
        version=__version__,
        description=DESCRIPTION,
        generate_unique_id_function=_operation_id,
        openapi_url=docs.OPENAPI,
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = context
    for surface in SURFACES:
        app.include_router(surface.router)
    openapi_document.install(app)
    errors.install(app)
    _guard(app, context)
    return app


def _operation_id(route: APIRoute) -> str:
    """`tag-name`: clients are generated from these."""
    return f"{route.tags[0] if route.tags else 'page'}-{route.name}"


def _guard(app: FastAPI, context: ServerContext) -> None:
    """Starlette runs what is added last first."""
    settings = context.settings
    app.add_middleware(guard.BodySizeGuard, most=settings.max_body_bytes)
    if settings.token:
        app.add_middleware(guard.TokenGuard, token=settings.token)
    app.add_middleware(guard.BodyTypeGuard)
    app.add_middleware(guard.HeaderGuard)
    app.add_middleware(Cors, allowed=settings.allowed_origins, under_api=settings.deepseek_origins)
    app.add_middleware(guard.OriginGuard, allowed=settings.allowed_origins, under_api=settings.deepseek_origins)
    app.add_middleware(
        guard.HostGuard,
        port=context.port,
        extra=(*settings.allowed_hosts, *_own_name(settings.host)),
        own_address=settings.host in WILDCARDS,
    )
    app.add_middleware(guard.RequestLog, instance=context.instance, count=context.metrics.request)


def _own_name(host: str) -> tuple[str, ...]:
    """An address that was chosen on purpose may be called by its name; a wildcard has none."""
    if host in (*WILDCARDS, *guard.LOOPBACK):
        return ()
    return (f"[{host}]" if ":" in host else host.lower(),)


class Cors:
    """What allowed origins may do, never with credentials; `/api/*` has a list of its own besides."""

    def __init__(self, app: ASGIApp, *, allowed: Collection[str], under_api: Collection[str]) -> None:
        def answers(origins: Collection[str]) -> CORSMiddleware:
            return CORSMiddleware(
                app,
                allow_origins=tuple(origins),
                allow_methods=("GET", "POST", "DELETE"),
                allow_headers=("*",),  # clients add their own, as OpenAI's for browsers does
                expose_headers=EXPOSED,
                allow_private_network=True,
            )

        self._everywhere, self._api = answers(allowed), answers((*allowed, *under_api))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        chosen = self._api if scope["type"] == "http" and guard.is_api(scope) else self._everywhere
        await chosen(scope, receive, send)
