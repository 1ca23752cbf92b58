"""A server for a module's tests. A module with settings or a client of its own has its own `running`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.wire.fakes import FakeService, says_hello, serving


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[FakeService, Any]]:
    service = FakeService()
    with serving(service) as url, httpx.Client(base_url=url) as client:
        yield service, client


@pytest.fixture
def service(running: tuple[FakeService, Any]) -> FakeService:
    running[0].behave = says_hello
    running[0].requests.clear()
    return running[0]


@pytest.fixture
def client(running: tuple[FakeService, Any], service: FakeService) -> Any:
    return running[1]
