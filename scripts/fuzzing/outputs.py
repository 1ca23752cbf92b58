"""A result in every form that leaves the program."""

from __future__ import annotations

import json

from scripts.fuzzing.parts import chosen, text_of

from ocr_mlx.client.sse import Parser
from ocr_mlx.domain import Block, OcrResult, PageError, PageResult, PageStatus
from ocr_mlx.outputs import formats
from ocr_mlx.outputs.outcome import failure
from ocr_mlx.server import streams, texts


def one(data: bytes) -> None:
    """Whatever a page holds, each form is whole, and a stream's event is one event."""
    status, rest = chosen(data, tuple(PageStatus))
    text = text_of(rest)
    box = (0.0, 0.0, 1.0, 1.0)
    page = PageResult(
        index=0,
        text=text,
        raw_text=text,
        status=status,
        blocks=(Block(label=text, text=text, box=box, normalized=box),),
        error=PageError(code="x", message=text) if status is PageStatus.FAILED else None,
    )
    result = OcrResult(model=text, pages=(page, page), seconds=0.5)
    assert json.loads(formats.to_json(result))["text"] == result.text
    assert formats.to_json_line(text, result).count("\n") == 1
    formats.to_text(result)
    formats.to_markdown(result)
    failure(result)
    assert all(value.isascii() and "\n" not in value and "\r" not in value for value in texts.headers(result).values())
    told = {"text": text}
    assert streams.line(told).count(b"\n") == 1
    _check_one_event(streams.frame(told, event="page"), text)


def _check_one_event(frame: bytes, text: str) -> None:
    found = list(Parser().feed(frame))
    assert len(found) == 1
    assert json.loads(found[0].data)["text"] == text.encode("utf-8", "replace").decode()
