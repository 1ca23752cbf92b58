"""The Responses API: the record of a response, and the events of one that is streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ocr_mlx.server.openai import answers
from ocr_mlx.server.openai.answers import Answer
from ocr_mlx.server.openai.problems import Refused, log
from ocr_mlx.server.openai.schemas import (
    Incomplete,
    OutputMessage,
    OutputText,
    ResponseProblem,
    ResponseRecord,
    ResponsesRequest,
    ResponseUsage,
)
from ocr_mlx.server.openai.stream import Streaming
from ocr_mlx.server.streams import frame


def begun(body: ResponsesRequest, model: str) -> ResponseRecord:
    """A response that has no text yet. It echoes what was asked for, null where the model decides."""
    form = body.text.format.model_dump(by_alias=True, exclude_none=True) if body.text and body.text.format else None
    if form is None or form["type"] != "json_schema":
        form = {"type": form["type"] if form else "text"}
    return ResponseRecord(
        id=answers.new_id("resp"),
        created_at=answers.now(),
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        model=model,
        output=[],
        temperature=body.temperature,
        text={"format": form},
        top_p=body.top_p,
        metadata=body.metadata or {},
    )


def ended(record: ResponseRecord, answer: Answer, item: str) -> ResponseRecord:
    """The response with its text, whole or cut short; `item` is its message's id."""
    whole = answer.finish == "stop"
    content = [OutputText(text=answer.text)]
    message = OutputMessage(id=item, status="completed" if whole else "incomplete", content=content)
    usage = answer.usage()
    return record.model_copy(
        update={
            "status": message.status,
            "completed_at": answers.now() if whole else None,
            "incomplete_details": None if whole else Incomplete(),
            "model": answer.model,
            "output": [message],
            "usage": ResponseUsage(
                input_tokens=usage.prompt_tokens,
                output_tokens=usage.completion_tokens,
                total_tokens=usage.total_tokens,
            ),
            "ocr": answer.report(),
        }
    )


def failed(record: ResponseRecord, refused: Refused) -> ResponseRecord:
    """The response that came to nothing on its way."""
    problem = ResponseProblem(code=refused.code, message=refused.message)
    return record.model_copy(update={"status": "failed", "error": problem})


async def events(streaming: Streaming, body: ResponsesRequest) -> AsyncIterator[bytes]:
    """The events of a response: created, in progress, its item and text in pieces, completed, incomplete or failed."""
    record = begun(body, streaming.model)
    teller = _Teller(answers.new_id("msg"))
    yield teller.lifecycle("response.created", record)
    yield teller.lifecycle("response.in_progress", record)
    opening = OutputMessage(id=teller.item, status="in_progress", content=[]).model_dump(mode="json")
    yield teller.tell("response.output_item.added", output_index=0, item=opening)
    yield teller.part("response.content_part.added", part=OutputText(text="").model_dump(mode="json"))
    said = ""
    try:
        async for piece in streaming.pieces():
            said += piece
            yield teller.part("response.output_text.delta", delta=piece, logprobs=[])
    except Refused as refused:
        log.warning("failed: %s", refused.code)
        yield teller.lifecycle("response.failed", failed(record, refused))
        return
    assert streaming.answer is not None  # noqa: S101 - the pieces have ended
    record = ended(record, streaming.answer, teller.item)
    yield teller.part("response.output_text.done", text=said, logprobs=[])
    yield teller.part("response.content_part.done", part=OutputText(text=said).model_dump(mode="json"))
    item = record.output[0].model_dump(mode="json")
    yield teller.tell("response.output_item.done", output_index=0, item=item)
    yield teller.lifecycle(f"response.{record.status}", record)


class _Teller:
    """Numbers the events of one response; `item` is the id of its only message."""

    def __init__(self, item: str) -> None:
        self.item = item
        self._number = 0

    def tell(self, kind: str, **more: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **more}
        self._number += 1
        return frame(event, event=kind)

    def part(self, kind: str, **more: Any) -> bytes:
        return self.tell(kind, item_id=self.item, output_index=0, content_index=0, **more)

    def lifecycle(self, kind: str, record: ResponseRecord) -> bytes:
        return self.tell(kind, response=plain(record))


def plain(record: ResponseRecord) -> dict[str, Any]:
    """The record as JSON."""
    told = record.model_dump(mode="json")
    return told | ({"ocr": answers.plain(record.ocr)} if record.ocr else {})
