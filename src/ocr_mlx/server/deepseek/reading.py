"""One request to `/api/ocr`, from the form to the answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from fastapi import UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import Receive

from ocr_mlx.domain import UNSET, DecodeOverrides, OcrRequest, Upload
from ocr_mlx.errors import InvalidOption, OcrMlxError, SourceTooLarge, UnsupportedMedia
from ocr_mlx.outputs.outcome import failure
from ocr_mlx.pages import media
from ocr_mlx.server import uploads
from ocr_mlx.server.deepseek import convert, modes, pictures, tasks
from ocr_mlx.server.deepseek.history import History
from ocr_mlx.server.deepseek.pictures import Picture
from ocr_mlx.server.deps import ServerContext
from ocr_mlx.server.errors import CODE_HEADER, kind_of_code, when
from ocr_mlx.server.texts import headers
from ocr_mlx.settings import DEEPSEEK_MODES

log = logging.getLogger(__name__)

SERVICE = "deepseek"
EMPTY = "文件为空。"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadForm:
    """The fields of the form."""

    image: UploadFile | None
    file: UploadFile | None
    mode: str
    prompt: str
    pages: str
    password: str | None = field(repr=False)
    max_tokens: int | None


class Reader:
    """Reads one document, and tells its task how far it is."""

    def __init__(self, context: ServerContext, history: History, task: tasks.Task, began: float) -> None:
        """`began` by the monotonic clock."""
        self._context = context
        self._history = history
        self._task = task
        self._began = began

    async def read(self, receive: Receive, form: ReadForm) -> Response:
        """The answer. Raises HTTPException and RequestValidationError."""
        self._task.say(tasks.UPLOAD)
        try:
            upload = await self._checked(uploads.one_of(form.image, form.file, "image"))
            kind = _kind(upload)
            asked = convert.Asked(
                mode=_mode(form.mode),
                prompt=modes.effective(form.prompt, self._context.settings),
                file_name=upload.name,
                file_size=len(upload.data),
                is_pdf=kind == "PDF",
            )
            wanted = OcrRequest(
                source=upload,
                overrides=DecodeOverrides(max_new_tokens=UNSET if form.max_tokens is None else form.max_tokens),
                page_range=form.pages,
                password=form.password,
            )
            answer = await self._read(receive, wanted, asked, upload.data, kind)
        except BaseException as problem:
            self._task.fail(str(problem.detail) if isinstance(problem, HTTPException) else "识别失败。")
            raise
        self._task.complete()
        return answer

    async def _read(
        self, receive: Receive, wanted: OcrRequest, asked: convert.Asked, source: bytes, kind: media.Kind
    ) -> Response:
        listener = tasks.Listener(self._task)
        self._task.say(tasks.PREPARING)

        def prepare() -> OcrRequest:
            model = self._context.models.pick("", SERVICE)
            return replace(wanted, model=model, prompt=modes.to_prompt(asked.mode, asked.prompt, model))

        def finish() -> bytes:
            """The answer as JSON, with the pages drawn; the history has it too."""
            drawn = self._draw(wanted)
            answer = convert.to_answer(result, asked, drawn, seconds=time.monotonic() - self._began)
            kept = self._history.save(answer, source, kind, drawn)
            return answer.model_copy(update={"history_id": kept}).model_dump_json(by_alias=True).encode()

        try:
            result = await self._context.runner.run(prepare, receive, listener.on_event)
        except OcrMlxError as error:
            _refuse(type(error), str(error), when(error))
        told, bad = headers(result), failure(result)
        if bad is not None:
            _refuse(kind_of_code(bad.code), bad.message, told)
        self._task.say(listener.finishing())
        return Response(await run_in_threadpool(finish), media_type="application/json", headers=told)

    def _draw(self, wanted: OcrRequest) -> Sequence[Picture | None]:
        """The pages; none where the document was read and yet cannot be drawn."""
        try:
            return list(pictures.draw(self._context.engine.wait(), wanted))
        except OcrMlxError:
            return ()

    async def _checked(self, file: UploadFile) -> Upload:
        settings = self._context.settings
        most = min(settings.deepseek_max_mb, settings.max_file_mb)
        try:
            return await uploads.content(file, most_mb=most)
        except SourceTooLarge as error:
            raise HTTPException(413, convert.too_large(most), headers={CODE_HEADER: error.code}) from error


def _kind(upload: Upload) -> media.Kind:
    """What the bytes are. Raises 400 for what is neither an image nor a PDF."""
    if not upload.data:
        raise HTTPException(400, EMPTY, headers={CODE_HEADER: UnsupportedMedia.code})
    kind = media.detect(upload.data)
    if kind is None:
        raise HTTPException(400, convert.NOT_A_PAGE, headers={CODE_HEADER: UnsupportedMedia.code})
    return kind


def _mode(name: str) -> str:
    """The mode, in any case. Raises 400 with the names that there are."""
    mode = name.strip().lower() or modes.DEFAULT_MODE
    if mode not in DEEPSEEK_MODES:
        known = "、".join(DEEPSEEK_MODES)
        told = f"未知的模式：{convert.sound(mode)}。可用的模式：{known}。"
        raise HTTPException(400, told, headers={CODE_HEADER: InvalidOption.code})
    return mode


def _refuse(kind: type[OcrMlxError], message: str, more: Mapping[str, str]) -> NoReturn:
    """Raise the answer to an error; `more` are further headers."""
    log.warning("failed: %s", kind.code)
    status, detail = convert.refusal(kind, message)
    raise HTTPException(status, detail, headers={**more, CODE_HEADER: kind.code})
