"""The application: routers, error answers and guards put together. No route is defined here."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from ocr_mlx import __version__
from ocr_mlx.server import errors, guard, system
from ocr_mlx.server.deps import ServerContext
from ocr_mlx.server.ocr import routes as ocr

DESCRIPTION = "Reads images and PDFs with native MLX models, on this machine."
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
        title="OCR MLX API",
        version=__version__,
        description=DESCRIPTION,
        generate_unique_id_function=_operation_id,
    )
    app.state.context = context
    app.include_router(ocr.router)
    app.include_router(system.router)
    errors.install(app)
    _guard(app, context)
    return app


def _operation_id(route: APIRoute) -> str:
    """`tag-name`: clients are generated from these."""
    return f"{route.tags[0]}-{route.name}"


def _guard(app: FastAPI, context: ServerContext) -> None:
    """Starlette runs what is added last first."""
    settings = context.settings
    app.add_middleware(guard.BodySizeGuard, most=settings.max_body_bytes)
    if settings.token:
        app.add_middleware(guard.TokenGuard, token=settings.token)
    app.add_middleware(guard.BodyTypeGuard)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=("GET", "POST"),
        allow_headers=("Authorization", "Content-Type", "X-Request-ID"),
        expose_headers=EXPOSED,
    )
    app.add_middleware(guard.OriginGuard, allowed=settings.allowed_origins)
    app.add_middleware(guard.HostGuard, port=context.port, extra=(*settings.allowed_hosts, *_own_name(settings.host)))
    app.add_middleware(guard.RequestLog, instance=context.instance)


def _own_name(host: str) -> tuple[str, ...]:
    """An address that was chosen on purpose may be called by its name; a wildcard has none."""
    if host in ("", "0.0.0.0", "::", *guard.LOOPBACK):  # noqa: S104
        return ()
    return (f"[{host}]" if ":" in host else host.lower(),)
