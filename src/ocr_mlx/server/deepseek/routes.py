"""`/api/*`: modes, reading with layout, progress, history."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.exceptions import HTTPException

from ocr_mlx.server.deepseek import modes, tasks
from ocr_mlx.server.deepseek.history import FORMATS, History, history_of
from ocr_mlx.server.deepseek.reading import Reader, ReadForm
from ocr_mlx.server.deepseek.schemas import (
    HistoryAnswer,
    HistoryList,
    Modes,
    OcrAnswer,
    Progress,
    Task,
)
from ocr_mlx.server.deps import Context
from ocr_mlx.server.errors import READING, problem

router = APIRouter()
PING = 15.0
"""Seconds between signs of life in a stream without steps."""
SLACK = 1.0
"""Seconds after which what has expired is removed."""
TIMED_OUT = "连接超时"
NO_TASK = "任务不存在或已过期。"
NO_HISTORY = "历史记录不存在。"
NO_FORMAT = "不支持的下载格式。"
_PLAIN = re.compile(r"[A-Za-z0-9 ._()-]+")
"""Names that need no coding in a header."""


FAILURES = READING | {
    400: problem("The file is empty, damaged, locked, or neither an image nor a PDF; the mode or prompt is not known"),
    409: problem("A request with this task id is being read"),
}
UNKNOWN: dict[int | str, dict[str, Any]] = {404: problem("There is none of this id")}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Steps as events"}
}
FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/markdown": {"schema": {"type": "string"}},
            "application/json": {"schema": {"type": "object"}},
            "text/plain": {"schema": {"type": "string"}},
        },
        "description": "The file, as an attachment",
    },
    400: problem("There is no such format"),
}


Format = Annotated[str, Query(description="In any case.", json_schema_extra={"enum": list(FORMATS)})]


class Shelf:
    """What these routes keep between requests."""

    def __init__(self, history: History) -> None:
        self.tasks = tasks.Tasks()
        self.history = history

    def expire(self) -> None:
        """Remove what is new now once it is too old, also when nobody asks any more."""
        loop = asyncio.get_running_loop()
        if self.history.ttl > 0:
            loop.call_later(self.history.ttl + SLACK, loop.run_in_executor, None, self.history.sweep)


async def _shelf_of(request: Request, context: Context) -> Shelf:
    """The application's; made by the first request."""
    state = request.app.state
    if not hasattr(state, "deepseek"):
        state.deepseek = Shelf(history_of(context.settings))
        await run_in_threadpool(state.deepseek.history.sweep)
    shelf: Shelf = state.deepseek
    return shelf


OwnShelf = Annotated[Shelf, Depends(_shelf_of)]


@router.get("/api/modes", tags=["deepseek"], response_model=Modes)
async def get_modes(context: Context) -> Modes:
    """The modes, the prompt that is used when there is none, and the limit."""
    settings = context.settings
    most = float(min(settings.deepseek_max_mb, settings.max_file_mb))
    return Modes(default_prompt=settings.deepseek_prompt, modes=modes.table(), max_image_mb=most)


@router.post("/api/ocr", tags=["deepseek"], response_model=OcrAnswer, responses=FAILURES)
async def read(
    request: Request,
    context: Context,
    shelf: OwnShelf,
    image: Annotated[UploadFile | None, File(description="An image or a PDF.")] = None,
    file: Annotated[UploadFile | None, File(description="The same under another name.")] = None,
    mode: Annotated[str, Form(description="gundam, base, small, tiny or large.", max_length=100)] = modes.DEFAULT_MODE,
    prompt: Annotated[str, Form(description="Blank: the default.", max_length=20_000)] = "",
    task_id: Annotated[str, Form(description="To follow the request by.", pattern=r"^[A-Za-z0-9_.-]{0,100}$")] = "",
    pages: Annotated[str, Form(description="Pages to read, such as `1-3,7`; left out: all.", max_length=10_000)] = "",
    password: Annotated[str | None, Form(description="Password of a PDF.", max_length=1000)] = None,
    max_tokens: Annotated[int | None, Form(description="Most tokens per page.", ge=1, le=1_000_000)] = None,
) -> Response:
    """Read an image or all pages of a PDF, sent as `image` (or `file`): text, the model's own words, layout, pages.

    The bytes decide what the file is. The headers `X-OCR-MLX-Pages`, `X-OCR-MLX-Status` and `X-OCR-MLX-Error` say what
    became of each page, and so does each page's `status`.
    """
    reader = Reader(context, shelf.history, shelf.tasks.begin(task_id), time.monotonic())
    form = ReadForm(
        image=image, file=file, mode=mode, prompt=prompt, pages=pages, password=password, max_tokens=max_tokens
    )
    answer = await reader.read(request.receive, form)
    shelf.expire()
    return answer


@router.post("/api/task/create", tags=["deepseek"], response_model=Task)
async def create_task(shelf: OwnShelf) -> Task:
    """An id that a request may carry as `task_id`, and that can be followed at once."""
    return Task(task_id=shelf.tasks.create())


@router.get("/api/progress/{task_id}", tags=["deepseek"], response_class=Response, responses=UNKNOWN | STREAM)
async def progress(task_id: str, shelf: OwnShelf) -> Response:
    """A request's steps as server-sent events, from where it stands; then `complete`, `error` or `timeout`."""
    task = shelf.tasks.find(task_id)
    if task is None:
        raise HTTPException(404, NO_TASK)
    return EventSourceResponse(_events(task), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})


async def _events(task: tasks.Task) -> AsyncIterator[bytes]:
    async for step in task.follow(PING):
        if step is None:
            yield KEEPALIVE_COMMENT
        elif step.stage != tasks.ERROR:
            yield _event(step)
    if task.ended:
        yield _event(task.last, task.last.stage)
    else:
        yield format_sse_event(event="timeout", data_str=f'{{"message":"{TIMED_OUT}"}}')


def _event(step: Progress, name: str | None = None) -> bytes:
    return format_sse_event(event=name, data_str=step.model_dump_json(by_alias=True))


@router.get("/api/history", tags=["deepseek"], response_model=HistoryList)
async def list_history(shelf: OwnShelf, limit: Annotated[int, Query(ge=1, le=1000)] = 30) -> HistoryList:
    """The documents that were read, the latest first."""
    return HistoryList(items=await run_in_threadpool(shelf.history.entries, limit))


@router.get("/api/history/{history_id}", tags=["deepseek"], response_model=HistoryAnswer, responses=UNKNOWN)
async def get_history(history_id: str, shelf: OwnShelf) -> Response:
    """A document as it was answered, with its pages' pictures."""

    def found() -> bytes | None:
        answer = shelf.history.find(history_id)
        return None if answer is None else answer.model_dump_json(by_alias=True).encode()

    data = await run_in_threadpool(found)
    if data is None:
        raise HTTPException(404, NO_HISTORY)
    return Response(data, media_type="application/json")


@router.get("/api/history/{history_id}/download", tags=["deepseek"], response_class=Response, responses=UNKNOWN | FILES)
async def download_history(history_id: str, shelf: OwnShelf, format: Format = "md") -> Response:
    """A document's text (`md`), answer (`json`) or the model's own words (`raw`) as an attachment."""
    form = next((one for one in FORMATS if one == format.lower()), None)
    if form is None:
        raise HTTPException(400, NO_FORMAT)
    found = await run_in_threadpool(shelf.history.download, history_id, form)
    if found is None:
        raise HTTPException(404, NO_HISTORY)
    plain = _PLAIN.fullmatch(found.name)
    named = f'filename="{found.name}"' if plain else f"filename*=utf-8''{quote(found.name, safe='')}"
    return Response(found.data, media_type=found.media_type, headers={"Content-Disposition": f"attachment; {named}"})


@router.delete("/api/history/{history_id}", tags=["deepseek"], status_code=204, responses=UNKNOWN)
async def delete_history(history_id: str, shelf: OwnShelf) -> Response:
    """Remove a document and its files."""
    if not await run_in_threadpool(shelf.history.delete, history_id):
        raise HTTPException(404, NO_HISTORY)
    return Response(status_code=204)
