from __future__ import annotations

from pathlib import Path

import pytest

from ocr_mlx.domain import ModelRef
from ocr_mlx.model import registry
from tests.unit.model.tiny import TINY, write_folder


@pytest.fixture(autouse=True)
def tiny_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "families", lambda: (TINY,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "tiny")


@pytest.fixture
def ref(folder: Path) -> ModelRef:
    return ModelRef(id="tiny", path=folder)
