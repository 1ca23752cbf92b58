"""Which models there are, which one jobs get that name none, where each of them stands, and which leave the memory."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from ocr_mlx.errors import UnknownModel
from ocr_mlx.server.deps import Context
from ocr_mlx.server.errors import CODE_HEADER, problem
from ocr_mlx.server.jobs.catalog import Catalog
from ocr_mlx.server.jobs.schemas import (
    CurrentModel,
    JobModels,
    ModelsEvicted,
    ModelState,
    ModelSwitched,
    SwitchRequest,
)

router = APIRouter(prefix="/models")
_CODE = {CODE_HEADER: UnknownModel.code}
ANY: dict[int | str, dict[str, Any]] = {
    500: problem("The jobs' folder cannot be used"),
    503: problem("What was switched to cannot be looked up or kept now"),
}


@router.get("", tags=["models"], responses=ANY)
async def list_models(context: Context) -> JobModels:
    """The models that jobs can be read with. Wakes none."""
    return await run_in_threadpool(Catalog(context).listed)


@router.get("/current", tags=["models"], responses=ANY)
async def current_model(context: Context) -> CurrentModel:
    """The model that was switched to."""
    return await run_in_threadpool(Catalog(context).current)


@router.post(
    "/switch",
    tags=["models"],
    responses=ANY | {400: problem("No such model")},
)
async def switch_model(body: SwitchRequest, context: Context) -> ModelSwitched:
    """Choose the model for jobs, and for requests to all services, that name none. It is loaded when it is needed."""
    try:
        return await run_in_threadpool(Catalog(context).switch, body.model)
    except UnknownModel as unknown:
        raise HTTPException(400, str(unknown), headers=_CODE) from unknown


@router.post("/evict", tags=["models"])
async def evict_models(context: Context) -> ModelsEvicted:
    """Unload all models that nobody uses, pinned ones too. Answers when their memory is given back, and how much that was."""
    return await run_in_threadpool(Catalog(context).evict, None)


@router.post(
    "/{name:path}/evict",
    tags=["models"],
    responses=ANY
    | {202: {"model": ModelsEvicted, "description": "In use: it goes with the last request that uses it"}}
    | {404: problem("No such model")},
)
async def evict_model(name: str, context: Context, response: Response) -> ModelsEvicted:
    """Unload one model, pinned or not. Running requests are never cut short: one that is in use goes when they have ended."""
    try:
        told = await run_in_threadpool(Catalog(context).evict, name)
    except UnknownModel as unknown:
        raise HTTPException(404, str(unknown), headers=_CODE) from unknown
    response.status_code = 202 if told.in_use else 200
    return told


@router.get(
    "/{name:path}/status",
    tags=["models"],
    responses=ANY | {404: problem("No such model")},
)
async def model_status(name: str, context: Context) -> ModelState:
    """Where a model stands. Wakes none."""

    def look() -> ModelState | None:
        catalog = Catalog(context)
        if catalog.find(name) is None:
            return None
        entry = catalog.entry(name)
        return ModelState(
            model=entry.name,
            status=entry.status,
            progress=entry.progress,
            message=entry.message,
            is_ready=entry.is_available,
        )

    found = await run_in_threadpool(look)
    if found is None:
        raise HTTPException(404, f"Model '{name}' not found", headers=_CODE)
    return found
