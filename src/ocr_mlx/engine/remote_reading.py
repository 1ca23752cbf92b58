"""Documents whose pages an engine elsewhere reads: the same events and results as from a model here."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from PIL import Image

from ocr_mlx.domain import (
    DocumentStarted,
    Finish,
    OcrRequest,
    OnEvent,
    Page,
    PageDone,
    PageError,
    PageResult,
    PageStarted,
    PageStatus,
    TextDelta,
)
from ocr_mlx.engine import remote_chat
from ocr_mlx.engine.document import OpenDocument
from ocr_mlx.engine.remote import RemoteModel, RemoteOptions
from ocr_mlx.engine.remote_form import form_of
from ocr_mlx.engine.stop import Stop
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.inference import pipeline
from ocr_mlx.inference.blank import is_blank
from ocr_mlx.inference.failure import as_error

if TYPE_CHECKING:
    from ocr_mlx.engine.remote_client import RemoteClient

DPI = 200.0
MOST_SIDE = 3072
"""Longer pictures are sent at this size: more than these models look at, and small enough for every engine's limits."""
_PREPARING = 2
_LOOK = 0.1
"""Seconds between two looks at the caller's flag."""


class RemoteEngines:
    """All engines elsewhere. Nothing is started, and nothing heavy imported, before the first page is asked for."""

    def __init__(
        self, options: RemoteOptions, *, connect: Callable[[RemoteOptions], RemoteClient] | None = None
    ) -> None:
        self._options = options
        self._connect = connect or _client
        self._lock = threading.Lock()
        self._client: RemoteClient | None = None
        self.room = threading.BoundedSemaphore(options.at_once + _PREPARING)
        """Pages that are rendered and wait or are being read, over all documents."""

    def find(self, name: str) -> RemoteModel:
        """The model of this name. Raises InvalidOption, and SourceForbidden for an engine that is not allowed."""
        return self._options.find(name)

    def key(self, remote: RemoteModel, credential: str) -> str:
        """The caller's own key; else the configured one, which goes to the configured endpoint alone."""
        return credential or self._options.key_for(remote)

    def client(self) -> RemoteClient:
        """What asks; there is one."""
        with self._lock:
            if self._client is None:
                self._client = self._connect(self._options)
            return self._client

    def close(self) -> None:
        """End all requests."""
        with self._lock:
            if self._client is not None:
                self._client.close()


def _client(options: RemoteOptions) -> RemoteClient:
    from ocr_mlx.engine.remote_client import RemoteClient

    return RemoteClient(options)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """A page to ask about, without its pixels: the request has them. `size` is what the engine gets to see."""

    page: Page
    size: tuple[int, int]
    body: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Blank:
    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answered:
    index: int
    answer: remote_chat.Answer
    error: OcrMlxError | None
    cancelled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    ready: _Ready
    started: float
    cancel: Callable[[], None]


_Message = _Ready | _Blank | _Answered | TextDelta | PageResult


class RemoteReading:
    """One document on its way to an engine and back. Belongs to the caller's thread."""

    def __init__(
        self,
        engines: RemoteEngines,
        remote: RemoteModel,
        threads: ThreadPoolExecutor,
        document: OpenDocument,
        request: OcrRequest,
        on_event: OnEvent,
        stop: Stop,
    ) -> None:
        """Raises InvalidOption for what such an engine cannot be asked."""
        remote_chat.check_options(request.overrides)
        self._engines = engines
        self._remote = remote
        self._threads = threads
        self._document = document
        self._request = request
        self._emit = on_event
        self._stop = stop
        self._form = form_of(remote.model, request.prompt, request.overrides)
        self._key = engines.key(remote, request.credential)
        self._messages: SimpleQueue[_Message] = SimpleQueue()
        self._waiting = list(reversed(document.indices))
        self._preparing = 0
        self._asked: dict[int, _Asked] = {}
        self._hands: set[Future[None]] = set()
        self._roomy: set[int] = set()
        """Pages that hold a place in the room; a document's only page needs none, so that every document goes on."""
        self._done: dict[int, PageResult] = {}

    def run(self) -> tuple[PageResult, ...]:
        """The results, in the order asked for."""
        self._emit(DocumentStarted(model=self._remote.model, pages=self._document.indices))
        try:
            self._fill()
            while self._preparing or self._asked:
                self._step()
                self._fill()
        except BaseException:
            self._stop.set()
            self._give_up()
            raise
        return tuple(self._done[index] for index in self._document.indices)

    def _step(self) -> None:
        try:
            self._handle(self._messages.get(timeout=_LOOK))
        except Empty:
            pass
        if self._stop.is_set():
            self._cancel_all()

    def _cancel_all(self) -> None:
        for asked in self._asked.values():
            asked.cancel()

    def _give_up(self) -> None:
        """End everything that goes on for this document, without another event."""
        self._cancel_all()
        wait(self._hands)
        while self._asked:
            message = self._messages.get()
            if isinstance(message, _Answered):
                del self._asked[message.index]
        for _held in self._roomy:
            self._engines.room.release()

    def _fill(self) -> None:
        while self._waiting and self._stop.is_set():
            self._finish(pipeline.cancelled(self._waiting.pop()))
        self._hands = {hand for hand in self._hands if not hand.done()}
        while self._waiting and self._preparing < _PREPARING and self._has_room(self._waiting[-1]):
            self._hands.add(self._threads.submit(self._prepare, self._waiting.pop()))
            self._preparing += 1

    def _has_room(self, index: int) -> bool:
        if not self._preparing and not self._asked:
            return True
        if not self._engines.room.acquire(blocking=False):
            return False
        self._roomy.add(index)
        return True

    def _prepare(self, index: int) -> None:
        """Runs on a helper thread."""
        try:
            self._messages.put(pipeline.cancelled(index) if self._stop.is_set() else self._picture(index))
        except Exception as problem:
            self._messages.put(pipeline.failed(index, as_error(problem, "preparing a page")))

    def _picture(self, index: int) -> _Ready | _Blank:
        page = self._document.page(index, dpi=self._request.dpi or DPI, padding=self._request.padding)
        if is_blank(page.image):
            return _Blank(index=index)
        image = _bounded(page.image)
        body = remote_chat.body(
            self._remote.model,
            _data_uri(image),
            self._form.words,
            self._request.prompt.system,
            self._form.params,
            self._request.overrides,
        )
        bare = replace(page, image=Image.new("RGB", (1, 1)), text_layer=None)
        return _Ready(page=bare, size=image.size, body=body)

    def _handle(self, message: _Message) -> None:
        match message:
            case TextDelta():
                self._emit(message)
            case _Answered():
                asked = self._asked.pop(message.index)
                self._finish(self._concluded(asked, message))
            case _Ready():
                self._preparing -= 1
                self._ask(message)
            case _Blank():
                self._preparing -= 1
                self._emit(PageStarted(page=message.index))
                self._finish(PageResult(index=message.index, status=PageStatus.BLANK))
            case PageResult():
                self._preparing -= 1
                self._finish(message)

    def _ask(self, ready: _Ready) -> None:
        from ocr_mlx.engine.remote_client import Question

        index = ready.page.index
        self._emit(PageStarted(page=index))

        def on_text(text: str) -> None:
            self._messages.put(TextDelta(page=index, text=text))

        def on_done(answer: remote_chat.Answer, error: OcrMlxError | None, cancelled: bool) -> None:
            self._messages.put(_Answered(index=index, answer=answer, error=error, cancelled=cancelled))

        question = Question(remote=self._remote, key=self._key, body=ready.body, extras=self._form.extras)
        started = time.monotonic()
        cancel = self._engines.client().ask(question, on_text, on_done)
        self._asked[index] = _Asked(ready=replace(ready, body={}), started=started, cancel=cancel)

    def _concluded(self, asked: _Asked, answered: _Answered) -> PageResult:
        try:
            return self._result(asked, answered)
        except Exception as problem:
            return pipeline.failed(answered.index, as_error(problem, "finishing a page"))

    def _result(self, asked: _Asked, answered: _Answered) -> PageResult:
        answer, error = answered.answer, answered.error
        finish = Finish.ERROR if error else Finish.CANCELLED if answered.cancelled else answer.finish or Finish.ERROR
        final = self._form.clean(answer.text, asked.ready.page)
        status = pipeline.status_of(finish, final.text)
        return PageResult(
            index=answered.index,
            status=status,
            text="" if error else final.text,
            raw_text=answer.text,
            blocks=() if error else final.blocks,
            confidence=answer.confidence,
            prompt_tokens=answer.prompt_tokens,
            generated_tokens=answer.generated_tokens,
            finish=finish,
            effective_size=asked.ready.size,
            seconds=time.monotonic() - asked.started,
            error=PageError(code=error.code, message=str(error)) if error else None,
        )

    def _finish(self, result: PageResult) -> None:
        if result.index in self._roomy:
            self._roomy.discard(result.index)
            self._engines.room.release()
        result = self._stop.explain(result)
        self._done[result.index] = result
        self._emit(PageDone(result=result))


def _bounded(image: Image.Image) -> Image.Image:
    if max(image.size) <= MOST_SIDE:
        return image
    smaller = image.copy()
    smaller.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.LANCZOS)
    return smaller


def _data_uri(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
