"""`/v1/chat/completions`, `/v1/responses` and `/v1/models`: OpenAI's ways to ask, for documents."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from ocr_mlx.domain import OcrResult
from ocr_mlx.server.deps import Context, ServerContext
from ocr_mlx.server.openai import answers, convert, models, responses, stream
from ocr_mlx.server.openai.answers import Answer
from ocr_mlx.server.openai.convert import Ask
from ocr_mlx.server.openai.problems import MODEL_NOT_FOUND, Refused, in_openai_words
from ocr_mlx.server.openai.schemas import (
    ChatCompletion,
    ChatRequest,
    ErrorAnswer,
    Model,
    ModelList,
    ResponseRecord,
    ResponsesRequest,
)

router = APIRouter(prefix="/v1")


def _failed(description: str) -> dict[str, Any]:
    return {"description": description, "model": ErrorAnswer}


REFUSALS: dict[int | str, dict[str, Any]] = {
    401: _failed("A token is needed"),
    403: _failed("The Host or Origin is not allowed"),
}
FAILURES: dict[int | str, dict[str, Any]] = REFUSALS | {
    400: _failed("The request or its document cannot be read; the message says what to do"),
    404: _failed("No such model"),
    413: _failed("The document is too large"),
    415: _failed("The body is not JSON"),
    422: _failed("The model's files are of a kind that is not read here"),
    429: _failed("Too much work is waiting; Retry-After says when to come back"),
    500: _failed("The model or the engine failed"),
    502: _failed("The model could not be fetched, or the engine elsewhere failed"),
    503: _failed("The server is shutting down, or out of memory"),
    504: _failed("The engine elsewhere took too long"),
}
STREAM: dict[str, Any] = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


@router.post(
    "/chat/completions",
    tags=["openai"],
    response_model=ChatCompletion,
    responses=FAILURES | {200: STREAM | {"description": "The text; server-sent events where `stream` is true"}},
)
async def chat_completions(body: ChatRequest, request: Request, context: Context) -> Response:
    """Read the documents of a chat. The answer is the text of all pages, joined by a blank line.

    The documents are those of the last user message that has any: data URIs, or http(s) addresses where fetching is on.
    Several are read in turn. `max_tokens` counts per page. `ocr` in the answer says what became of each page. With `stream`,
    words that could still change are held back until their page is done.
    """
    try:
        with in_openai_words():
            ask = convert.chat(body)
        if body.stream:
            streaming = stream.Streaming(ask, context)
            await streaming.open(request.receive)
            wanted = bool(body.stream_options and body.stream_options.include_usage)
            return stream.event_stream(streaming, stream.chat_events(streaming, with_usage=wanted))
        completion = answers.completion(await _read(ask, request, context))
    except Refused as refused:
        return refused.response()
    told = completion.model_dump(mode="json")
    return JSONResponse(told | {"ocr": answers.plain(completion.ocr)})


@router.post(
    "/responses",
    tags=["openai"],
    response_model=ResponseRecord,
    responses=FAILURES | {200: STREAM | {"description": "The text; server-sent events where `stream` is true"}},
)
async def create_response(body: ResponsesRequest, request: Request, context: Context) -> Response:
    """Read documents, asked for and answered as the Responses API does. Nothing is kept."""
    try:
        with in_openai_words():
            ask = convert.response(body)
        if body.stream:
            streaming = stream.Streaming(ask, context)
            await streaming.open(request.receive)
            return stream.event_stream(streaming, responses.events(streaming, body))
        answer = await _read(ask, request, context)
    except Refused as refused:
        return refused.response()
    record = responses.begun(body, answer.model)
    return JSONResponse(responses.plain(responses.ended(record, answer, answers.new_id("msg"))))


@router.get("/models", tags=["openai"], response_model=ModelList, responses=REFUSALS)
async def list_models(context: Context) -> ModelList:
    """The models by all their names: on this machine, or to be fetched when first asked for."""
    return ModelList(data=await run_in_threadpool(models.listed, context.settings))


@router.get("/models/{model:path}", tags=["openai"], response_model=Model, responses=REFUSALS | {404: FAILURES[404]})
async def retrieve_model(
    model: Annotated[str, Path(description="A name of the list.", examples=["builtin"])], context: Context
) -> Response:
    """One model."""
    found = await run_in_threadpool(models.find, model, context.settings)
    if found is None:
        message = f"There is no model {model[:200]!r}. `/v1/models` lists the known ones."
        return Refused(404, message, code=MODEL_NOT_FOUND, param="model").response()
    return JSONResponse(found.model_dump(mode="json"))


async def _read(ask: Ask, request: Request, context: ServerContext) -> Answer:
    """All documents, one after the other. Raises Refused."""
    results: list[OcrResult] = []
    for number in range(len(ask.documents)):
        with in_openai_words(ask.where(number)):
            result = await context.runner.run(partial(ask.request, number, context.models), request.receive)
        results.append(answers.check(result, ask, number))
    return Answer(ask=ask, results=results)
