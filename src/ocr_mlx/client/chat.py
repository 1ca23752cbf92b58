"""The chat surface: how a document and a question become a request, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from ocr_mlx.client.documents import Address, Bytes, Document, open_document
from ocr_mlx.client.errors import BadAnswer, OcrClientError, ServerFailed
from ocr_mlx.client.records import Chat
from ocr_mlx.client.sse import Message, Parser

PATH = "/v1/chat/completions"
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
"""What makes an answer a stream, with token counts at its end."""
_DONE = "[DONE]"


def body(source: Document, options: Mapping[str, Any]) -> dict[str, Any]:
    """The request that reads a document. Opens files."""
    said = dict(options)
    prompt, system = said.pop("prompt", ""), said.pop("system", "")
    parts = [part(open_document(source)), *([{"type": "text", "text": prompt}] if prompt else [])]
    instructions = [{"role": "system", "content": system}] if system else []
    return {"messages": [*instructions, {"role": "user", "content": parts}], **said}


def part(document: Bytes | Address) -> dict[str, Any]:
    """The document as a content part."""
    if isinstance(document, Bytes) and document.is_pdf:
        return {"type": "file", "file": {"filename": document.name, "file_data": document.uri}}
    return {"type": "image_url", "image_url": {"url": document.uri}}


def json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The `response_format` that holds the model to a schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema), "strict": True}}


def answer(response: httpx.Response) -> Chat:
    """The whole answer. Raises BadAnswer."""
    try:
        found = response.json()
        choice = found["choices"][0]
        more = found.get("ocr") or {}
        return Chat(
            text=choice["message"]["content"] or "",
            model=found.get("model", ""),
            finish_reason=choice.get("finish_reason") or "",
            usage=found.get("usage") or {},
            confidence=more.get("confidence"),
            statuses=tuple(page["status"] for page in more.get("pages") or ()),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadAnswer("The server's answer is no chat completion.", status=response.status_code) from error


def parsed(chat: Chat) -> dict[str, Any]:
    """The answer's JSON object. Raises BadAnswer where it is none."""
    try:
        found = json.loads(chat.text)
    except ValueError as error:
        raise BadAnswer(f"The model's answer cannot be used: {_why_unusable(chat)}") from error
    if not isinstance(found, dict):
        raise BadAnswer("The model's answer is JSON, but no object. Give a schema of type object.")
    return found


def _why_unusable(chat: Chat) -> str:
    if not chat.text:
        return "the page is blank."
    if chat.finish_reason == "length":
        return "it was cut off. Give more max_tokens."
    if len(chat.statuses) > 1:
        return "each page has one of its own. Give one page at a time, as in pages='2'."
    return "it is no JSON."


class Deltas:
    """A streamed answer as it grows. All but `model` is known at its end, see `Chat`.

    `corrections` are the texts of pages, by number from 1, of which other words were sent than stay: a loop was cut off.
    """

    def __init__(self) -> None:
        self.model = ""
        self.finish_reason = ""
        self.usage: Mapping[str, int] = {}
        self.confidence: float | None = None
        self.statuses: tuple[str, ...] = ()
        self.corrections: Mapping[int, str] = {}
        self.over = False
        self._parser = Parser()

    def feed(self, piece: bytes) -> str:
        """The text that these bytes add. Raises ServerFailed for an error that came on the way."""
        return "".join(self._delta(message) for message in self._parser.feed(piece))

    def end(self) -> None:
        """The connection is over. Raises ServerFailed when the answer is not."""
        if not self.over:
            raise ServerFailed("The server broke off in the middle of the text. Repeat the call.")

    def _delta(self, message: Message) -> str:
        if message.data == _DONE:
            self.over = True
            return ""
        try:
            chunk = json.loads(message.data)
            if chunk.get("error"):
                raise self._failure(chunk["error"])
            self.model = chunk.get("model") or self.model
            self.usage = chunk.get("usage") or self.usage
            if report := chunk.get("ocr"):
                self._report(report)
            return "".join(self._choice(choice) for choice in chunk.get("choices") or ())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadAnswer("The server's stream is no chat completion.") from error

    def _choice(self, choice: Mapping[str, Any]) -> str:
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        return (choice.get("delta") or {}).get("content") or ""

    def _report(self, report: Mapping[str, Any]) -> None:
        pages = report.get("pages") or ()
        self.confidence = report.get("confidence")
        self.statuses = tuple(page["status"] for page in pages)
        self.corrections = {page["index"] + 1: page["text"] for page in pages if page.get("text") is not None}

    @staticmethod
    def _failure(error: Any) -> OcrClientError:
        if not isinstance(error, dict):
            return ServerFailed(str(error))
        return ServerFailed(str(error.get("message") or "The server failed."), code=str(error.get("code") or ""))
