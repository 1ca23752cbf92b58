"""`import ocr_mlx`: cheap, typed, one service for the process."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import ocr_mlx
from ocr_mlx.domain import UNSET, DataUri, FilePath, OcrResult, Upload
from ocr_mlx.errors import InvalidOption, SourceError
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeService:
    service = FakeService()
    monkeypatch.setattr(ocr_mlx, "_service", lambda: service)
    return service


def test_importing_costs_less_than_50_ms_and_nothing_heavy() -> None:
    code = """
import sys, time
before, at = set(sys.modules), time.perf_counter()
import ocr_mlx
print(time.perf_counter() - at, *(set(sys.modules) - before))
"""
    costs = []
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, *modules = run.stdout.split()
        assert {"mlx", "numpy", "PIL", "fastapi", "httpx", "pydantic"}.isdisjoint(modules)
        costs.append(float(seconds))
    assert min(costs) < 0.05


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert ocr_mlx.__version__ == project["version"]


def test_read_says_only_what_was_said(service: FakeService) -> None:
    result = ocr_mlx.read("page.png")
    assert isinstance(result, OcrResult) and result.text == "Hello"
    [request] = service.requests
    assert (request.source, request.model, request.page_range) == (FilePath(path=Path("page.png")), "", "")
    assert request.overrides.temperature is UNSET and request.password is None


def test_read_asks_the_engine_that_reads_instead(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model_source="vllm", remote_endpoint="http://gpu:8001/v1")
    monkeypatch.setattr(ocr_mlx, "_settings", lambda: settings)
    ocr_mlx.read("page.png", model="lighton")
    assert service.requests[0].model == "openai+http://gpu:8001/v1#lightonai/LightOnOCR-2-1B"


def test_read_takes_paths_addresses_and_bytes(service: FakeService) -> None:
    ocr_mlx.read(Path("/a b.png"))
    ocr_mlx.read("data:image/png;base64,eA==")
    ocr_mlx.read(b"bytes")
    assert [request.source for request in service.requests] == [
        FilePath(path=Path("/a b.png")),
        DataUri(media_type="image/png", data=b"x"),
        Upload(data=b"bytes"),
    ]


def test_read_passes_options(service: FakeService) -> None:
    ocr_mlx.read(b"", "builtin", "1-2", temperature=0.5, seed=None, mode="m", padding=3, dpi=100, password="p")
    [request] = service.requests
    assert (request.model, request.page_range, request.padding, request.dpi) == ("builtin", "1-2", 3, 100)
    assert (request.overrides.temperature, request.overrides.seed, request.prompt.mode) == (0.5, None, "m")
    assert request.password == "p"


@pytest.mark.parametrize("data", [bytearray(b"x"), memoryview(b"x")])
def test_read_takes_what_is_like_bytes(service: FakeService, data: bytes) -> None:
    ocr_mlx.read(data)
    assert service.requests[0].source == Upload(data=b"x")


@pytest.mark.parametrize("source", [None, 3, ["a.png"]])
def test_read_says_what_a_source_is(service: FakeService, source: Any) -> None:
    with pytest.raises(InvalidOption, match=rf"type {type(source).__name__}\. Give a path"):
        ocr_mlx.read(source)
    assert not service.requests


@pytest.mark.parametrize("option", [{"pages": 3}, {"model": Path("m")}, {"mode": 1}, {"prompt": b"p"}, {"password": 1}])
def test_read_says_which_argument_is_no_text(service: FakeService, option: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=f"{next(iter(option))} cannot be .* It is text"):
        ocr_mlx.read("a.png", **option)
    assert not service.requests


def test_read_refuses_what_it_does_not_know(service: FakeService) -> None:
    with pytest.raises(InvalidOption, match="temprature"):
        ocr_mlx.read(b"", temprature=0.5)  # type: ignore[call-arg]
    with pytest.raises(SourceError):
        ocr_mlx.read("")
    assert not service.requests
