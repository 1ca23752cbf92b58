from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from ocr_mlx.domain import DocumentDone, DocumentStarted, Event, OcrRequest, OcrResult, PageDone, PageStatus, Upload
from ocr_mlx.errors import Cancelled, OcrMlxError, QueueFull, ShuttingDown
from ocr_mlx.server.running import DocumentRunner, EngineSlot
from ocr_mlx.utils.logs import REQUEST_ID
from tests.wire.fakes import FakeService, page, result

REQUEST = OcrRequest(source=Upload(data=b""))


def test_the_engine_is_built_once_and_not_before_it_is_needed() -> None:
    built: list[FakeService] = []

    def build() -> FakeService:
        built.append(FakeService())
        return built[-1]

    slot = EngineSlot(build)
    assert (slot.state, slot.peek(), built) == ("starting", None, [])
    slot.start()
    slot.start()
    assert slot.wait() is slot.wait() is slot.peek() is built[0]
    assert (slot.state, len(built)) == ("ready", 1)
    slot.close()
    assert built[0].closed


def test_an_engine_that_cannot_start_says_so_to_all() -> None:
    def build() -> FakeService:
        raise ImportError("/secret/libmlx.so")

    slot = EngineSlot(build)
    for _ in range(2):
        with pytest.raises(OcrMlxError, match="doctor") as caught:
            slot.wait()
        assert "secret" not in str(caught.value)
    assert (slot.state, slot.peek()) == ("failed", None)
    slot.close()


async def stays() -> Any:
    await asyncio.Event().wait()


def make(behave: Any) -> DocumentRunner:
    return DocumentRunner(EngineSlot(lambda: FakeService(behave=behave)), threads=2)


def test_the_result_comes_back_with_the_requests_name_on_the_thread() -> None:
    names: list[str] = []

    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        names.append(REQUEST_ID.get())
        return result(page())

    async def run() -> OcrResult:
        REQUEST_ID.set("mine")
        return await make(behave).run(lambda: REQUEST, stays)

    assert asyncio.run(run()).text == "Hello"
    assert names == ["mine"]


def test_errors_come_back() -> None:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        raise QueueFull("Full.")

    with pytest.raises(QueueFull):
        asyncio.run(make(behave).run(lambda: REQUEST, stays))


def test_a_bad_request_costs_no_engine() -> None:
    slot = EngineSlot(FakeService)

    def prepare() -> OcrRequest:
        raise QueueFull("Bad.")

    with pytest.raises(QueueFull):
        asyncio.run(DocumentRunner(slot, threads=1).run(prepare, stays))
    assert slot.state == "starting"


def waits(_request: OcrRequest, cancel: threading.Event) -> OcrResult:
    return result(page(status=PageStatus.CANCELLED if cancel.wait(10) else PageStatus.OK))


def test_a_client_that_leaves_cancels() -> None:
    async def leaves() -> Any:
        return {"type": "http.disconnect"}

    [done] = asyncio.run(make(waits).run(lambda: REQUEST, leaves)).pages
    assert done.status is PageStatus.CANCELLED


def test_stopping_cancels_and_says_why() -> None:
    async def run() -> None:
        runner = make(waits)
        asyncio.get_running_loop().call_later(0.01, runner.stop)
        with pytest.raises(ShuttingDown):
            await runner.run(lambda: REQUEST, stays)
        with pytest.raises(ShuttingDown):
            await runner.run(lambda: REQUEST, stays)

    asyncio.run(run())


def test_what_stopping_cancels_before_its_first_page_is_told_the_same() -> None:
    def behave(_request: OcrRequest, cancel: threading.Event) -> OcrResult:
        assert cancel.wait(10)
        raise Cancelled("The request was cancelled before its first page.")

    async def run() -> None:
        runner = make(behave)
        asyncio.get_running_loop().call_later(0.01, runner.stop)
        with pytest.raises(ShuttingDown):
            await runner.run(lambda: REQUEST, stays)

    asyncio.run(run())


async def collect(runner: DocumentRunner, receive: Any = stays) -> list[Event]:
    reading = runner.read(lambda: REQUEST)
    started = await reading.opened(receive, 10)
    events = [event async for event in reading.events()]
    assert started is next(event for event in events if isinstance(event, DocumentStarted))
    return events


def test_a_document_comes_as_events_in_order() -> None:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        return result(page(0, "one"), page(1, "two"))

    kinds = [type(event) for event in asyncio.run(collect(make(behave)))]
    assert kinds == [DocumentStarted, PageDone, PageDone, DocumentDone]


def test_what_fails_before_the_document_is_open_is_raised_then() -> None:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        raise QueueFull("Full.")

    with pytest.raises(QueueFull):
        asyncio.run(collect(make(behave)))


class Breaks(FakeService):
    def run(self, request: OcrRequest, on_event: Any = None, cancel: Any = None) -> OcrResult:
        on_event(DocumentStarted(model="fake", pages=(0,)))
        raise QueueFull("Full.")


def test_what_fails_later_is_raised_by_the_events() -> None:
    async def run() -> None:
        reading = DocumentRunner(EngineSlot(Breaks), threads=1).read(lambda: REQUEST)
        await reading.opened(stays, 10)
        with pytest.raises(QueueFull):
            _ = [event async for event in reading.events()]

    asyncio.run(run())


class Waits(FakeService):
    def run(self, request: OcrRequest, on_event: Any = None, cancel: Any = None) -> OcrResult:
        on_event(DocumentStarted(model="fake", pages=(0,)))
        self.closed = bool(cancel.wait(10))
        return result(page())


def test_nobody_who_listens_cancels() -> None:
    service = Waits()

    async def run() -> None:
        reading = DocumentRunner(EngineSlot(lambda: service), threads=1).read(lambda: REQUEST)
        await reading.opened(stays, 10)
        events = aiter(reading.events())
        assert isinstance(await anext(events), DocumentStarted)
        listening = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        await asyncio.to_thread(lambda: None)

    asyncio.run(run())  # ends only when the thread has
    assert service.closed


def test_a_client_that_leaves_before_the_start_cancels() -> None:
    seen = threading.Event()

    def behave(_request: OcrRequest, cancel: threading.Event) -> OcrResult:
        if cancel.wait(10):
            seen.set()
        raise Cancelled("Gone.")

    async def leaves() -> Any:
        return {"type": "http.disconnect"}

    with pytest.raises(Cancelled):
        asyncio.run(collect(make(behave), leaves))
    assert seen.is_set()
