"""Health, readiness, shutdown, logs, and the answer at the root."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from ocr_mlx import __version__
from ocr_mlx.observer import shown_model
from ocr_mlx.server.deps import Context, ServerContext
from ocr_mlx.server.guard import refuse_pages, refuse_visits
from ocr_mlx.server.metrics import CONTENT_TYPE
from ocr_mlx.server.running import Service
from ocr_mlx.settings import ABOUT, DEEPSEEK_MODES, HEALTHY, Settings

router = APIRouter()
OK = "OK!!!"
NO_CACHE = {"Cache-Control": "no-store"}
OBJECT: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"schema": {"type": "object"}}}}}


@router.get(
    "/health",
    tags=["health"],
    response_class=PlainTextResponse,
    responses=OBJECT,
)
async def health(request: Request, context: Context) -> Response:
    """`OK!!!` as text, or the server's state as JSON for a client that asks for JSON. Never wakes a model."""
    accept = request.headers.get("accept", "*/*")
    if wants_json(accept, default=context.settings.health == "json"):
        return JSONResponse(await run_in_threadpool(_state, context), headers=NO_CACHE | {"Vary": "Accept"})
    return PlainTextResponse(OK, headers=NO_CACHE | {"Vary": "Accept"})


@router.get("/livez", tags=["health"], response_class=PlainTextResponse)
async def livez() -> Response:
    """The process answers, whatever the engine does."""
    return PlainTextResponse("ok", headers=NO_CACHE)


@router.get("/v1/health", tags=["health"], response_class=PlainTextResponse)
async def v1_health() -> Response:
    """The same, where other servers have it."""
    return PlainTextResponse("ok", headers=NO_CACHE)


NOT_READY = "The engine is starting or cannot start, or jobs are in Redis and it cannot be reached"


@router.get("/readyz", tags=["health"], responses={503: {"description": NOT_READY}})
async def readyz(context: Context) -> Response:
    """200 once documents and jobs are taken without waiting for the engine to start, 503 before."""
    told: dict[str, str] = {"status": context.engine.state}
    if redis := await run_in_threadpool(_redis, context):
        told["redis"] = redis
    ready = told["status"] == "ready" and redis != "unhealthy"
    return JSONResponse(told, 200 if ready else 503, headers=NO_CACHE)


@router.get("/shutdown", tags=["shutdown"], response_class=PlainTextResponse, dependencies=[Depends(refuse_visits)])
async def shutdown(context: Context) -> Response:
    """End the server: running work may finish for a while. Not for web pages."""
    return _shut_down(context)


@router.post("/shutdown", tags=["shutdown"], response_class=PlainTextResponse)
async def shutdown_post(context: Context) -> Response:
    """End the server: running work may finish for a while."""
    return _shut_down(context)


def _shut_down(context: ServerContext) -> Response:
    return PlainTextResponse("Shutting down...", background=BackgroundTask(context.shutdown))


@router.get("/logs", tags=["logs"], response_class=PlainTextResponse, dependencies=[Depends(refuse_pages)])
async def get_logs(context: Context) -> Response:
    """The last lines of the log. They never hold a document's text. Not for web pages."""
    return PlainTextResponse(context.logs.text(), headers=NO_CACHE)


@router.get("/metrics", tags=["metrics"], response_class=PlainTextResponse, dependencies=[Depends(refuse_pages)])
async def metrics(context: Context) -> Response:
    """What the server counts, in Prometheus's text format. Neither wakes nor keeps a model. Not for web pages."""
    return Response(context.metrics.text(), headers=NO_CACHE, media_type=CONTENT_TYPE)


@router.get("/", tags=["service"], responses=OBJECT)
async def index(context: Context) -> Response:
    """Who this is and where to go on."""
    about = {
        "service": "OCR MLX",
        "name": "OCR MLX API",
        "message": "Welcome to OCR MLX",
        "version": __version__,
        "status": context.engine.state,
        "engine": "mlx",
        "docs": "/docs",
        "health": "/health",
        "openapi": "/openapi.json",
    }
    settings = context.settings
    name = settings.project_name
    named = {"name": name, "service": name, "message": f"Welcome to {name}"} if name else {}
    return JSONResponse(about | dict(ABOUT.get(settings.contract, {})) | named)


@router.api_route("/api/v1/openapi.json", methods=["GET", "HEAD"], tags=["service"], include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """The same document as at /openapi.json."""
    return JSONResponse(request.app.openapi())


def wants_json(accept: str, *, default: bool) -> bool:
    """Whether an Accept header prefers JSON to text; `default` where it names neither, or both alike in first place."""
    weights = {kind: weight for kind, weight in map(_weighed, reversed(accept.lower().split(",")))}
    json, text = weights.get("application/json", 0.0), weights.get("text/plain", weights.get("text/*", 0.0))
    if json == text:
        return default if not json else accept.lower().find("application/json") < accept.lower().find("text/")
    return json > text


def _weighed(item: str) -> tuple[str, float]:
    kind, _, rest = item.partition(";")
    name, _, value = rest.strip().partition("=")
    try:
        return kind.strip(), float(value) if name == "q" else 1.0
    except ValueError:
        return kind.strip(), 1.0


def _state(context: ServerContext) -> dict[str, Any]:
    """Told to callers without a token too, so no model's folder is told."""
    service = context.engine.peek()
    loaded = service.cache.snapshot() if service else ()
    settings = context.settings
    return {
        "status": "failed" if context.engine.state == "failed" else HEALTHY.get(settings.contract, "ok"),
        "version": __version__,
        "engine": context.engine.state,
        "model": shown_model(settings.default_model),
        "modelLoaded": bool(loaded),
        "modes": list(DEEPSEEK_MODES) if settings.contract == "deepseek" else _modes(settings) if service else [],
        "redis": _redis(context),
        "models": [
            {
                "id": shown_model(model.id),
                "family": model.family,
                "bytes": model.bytes,
                "leases": model.leases,
                "idleSeconds": round(model.idle_seconds, 3),
                "pinned": model.pinned,
            }
            for model in loaded
        ],
        "memory": _memory(service) if service else None,
    }


def _memory(service: Service) -> dict[str, int | None]:
    """Bytes: what models may fill, what they do, and what the process takes."""
    state = service.cache.memory()
    return {"limitBytes": state.limit, "modelsBytes": state.held, "processBytes": state.process}


def _redis(context: ServerContext) -> str | None:
    """How the jobs' Redis is; None where jobs are kept on this machine."""
    if not context.jobs.is_remote:
        return None
    return "healthy" if context.jobs.healthy() else "unhealthy"


def _modes(settings: Settings) -> list[str]:
    """What requests may name as `mode` to the default model. The engine has imported the families already."""
    from ocr_mlx.model.registry import family_of

    family = family_of(settings.default_model)
    return list(family.modes) if family else []
