from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from ocr_mlx.domain import OcrRequest, OcrResult, PageStatus, Upload
from ocr_mlx.errors import OcrMlxError, QueueFull, ShuttingDown
from ocr_mlx.server.deps import DocumentRunner, EngineSlot
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
