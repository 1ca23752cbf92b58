"""`POST /api/inference`: a file in, its text out; `GET /info`: what reads it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from ocr_mlx.domain import OcrRequest, Upload
from ocr_mlx.errors import OcrMlxError, SourceTooLarge, UnsupportedMedia
from ocr_mlx.outputs.outcome import failure
from ocr_mlx.server import uploads
from ocr_mlx.server.deps import Context, ServerContext
from ocr_mlx.server.errors import CODE_HEADER, READING, kind_of_code, problem, when
from ocr_mlx.server.lighton import convert
from ocr_mlx.server.lighton.schemas import Inference, Info
from ocr_mlx.server.texts import headers

log = logging.getLogger(__name__)
router = APIRouter()


FAILURES = READING | {400: problem("The file is empty, damaged, locked, or neither an image nor a PDF")}
Pages = Annotated[str, Form(description="Pages to read, such as `1-3,7`; left out: all.", max_length=10_000)]
Password = Annotated[str | None, Form(description="Password of a PDF.", max_length=1000)]
MaxTokens = Annotated[int | None, Form(description="Most tokens per page.", ge=1, le=1_000_000)]


@router.post("/api/inference", tags=["lighton"], response_model=Inference, responses=FAILURES)
async def inference(
    request: Request,
    response: Response,
    context: Context,
    file: Annotated[UploadFile | None, File(description="An image or a PDF.")] = None,
    image: Annotated[UploadFile | None, File(description="The same under another name.")] = None,
    pages: Pages = "",
    password: Password = None,
    max_tokens: MaxTokens = None,
) -> Inference:
    """Read an image or all pages of a PDF, sent as `file` (or `image`). The bytes decide which it is.

    The headers `X-OCR-MLX-Pages`, `X-OCR-MLX-Status` and `X-OCR-MLX-Error` say what became of each page.
    """
    upload = await _checked(uploads.one_of(file, image, "file"), context)
    asked: list[OcrRequest] = []

    def prepare() -> OcrRequest:
        asked.append(convert.to_request(upload, context.models, pages=pages, password=password, max_tokens=max_tokens))
        return asked[0]

    try:
        result = await context.runner.run(prepare, request.receive)
    except OcrMlxError as error:
        raise _refused(type(error), str(error), when(error)) from error
    told, bad = headers(result), failure(result)
    if bad is not None:
        raise _refused(kind_of_code(bad.code), bad.message, told)
    response.headers.update(told)
    return convert.to_answer(result, context.settings, remote=convert.is_remote(asked[0].model))


@router.get("/info", tags=["lighton"], response_model=Info, responses={503: FAILURES[503]})
async def info(context: Context) -> Info:
    """The engine, its device, and the model that `/api/inference` reads with. Wakes no model."""
    try:
        return await run_in_threadpool(_info, context)
    except OcrMlxError as error:
        raise _refused(type(error), str(error), when(error)) from error


def _info(context: ServerContext) -> Info:
    if not context.settings.device:
        context.engine.wait()
    chosen = context.models.pick("", convert.SERVICE)
    return Info(
        engine="vllm" if convert.is_remote(chosen) else "huggingface",
        device=convert.device(context.settings),
        model=convert.model_name(convert.asked_name(chosen, context.settings)),
    )


async def _checked(file: UploadFile, context: ServerContext) -> Upload:
    """The document, which is neither empty nor too large."""
    try:
        upload = await uploads.content(file, most_mb=context.settings.lighton_max_mb)
    except SourceTooLarge as error:
        raise HTTPException(413, "File too large", headers={CODE_HEADER: error.code}) from error
    if not upload.data:
        raise HTTPException(400, "Empty file", headers={CODE_HEADER: UnsupportedMedia.code})
    return upload


def _refused(kind: type[OcrMlxError], message: str, more: Mapping[str, str]) -> HTTPException:
    """The answer to an error; `more` are further headers."""
    log.warning("failed: %s", kind.code)
    status, detail = convert.refusal(kind, message)
    return HTTPException(status, detail, headers={**more, CODE_HEADER: kind.code})
