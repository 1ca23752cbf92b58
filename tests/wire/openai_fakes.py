"""What the tests of the OpenAI surface share: requests as clients send them, and a service that tells what it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai

from ocr_mlx.domain import DocumentDone, Event, OcrRequest, OcrResult, OnEvent
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, serving

PNG = "data:image/png;base64,eA=="
DEEPSEEK = "deepseek-ai/DeepSeek-OCR"


def image(address: str = PNG) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address}}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts) or [{"type": "text", "text": "Read."}, image()]}


def messages(*parts: dict[str, Any]) -> list[Any]:
    return [{"role": "system", "content": "You read."}, user(*parts)]


Step = Event | Callable[[threading.Event], object]


@dataclass
class TellingService(FakeService):
    """Emits the steps of a document, one list for each request; a step that is a function is called with the cancel flag."""

    documents: list[list[Step]] = field(default_factory=list)

    def run(
        self, request: OcrRequest, on_event: OnEvent | None = None, cancel: threading.Event | None = None
    ) -> OcrResult:
        self.requests.append(request)
        emit, flag = on_event or (lambda _event: None), cancel or threading.Event()
        for step in self.documents[len(self.requests) - 1]:
            if callable(step):
                step(flag)
                continue
            emit(step)
            if isinstance(step, DocumentDone):
                return step.result
        raise AssertionError("a document ends with DocumentDone")


@contextmanager
def client_of(service: FakeService, settings: Settings | None = None, key: str = "any") -> Iterator[openai.OpenAI]:
    """The real package against a running server."""
    with (
        serving(service, settings) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20) as client,
    ):
        yield client
