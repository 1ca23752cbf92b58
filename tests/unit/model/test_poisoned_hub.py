"""A hub that lists files where none of a model's belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocr_mlx.model import hub_files
from ocr_mlx.model.hub import Hub
from tests.unit.model.fake_hub import FakeHub, serve
from tests.unit.model.tiny import write_folder


class LyingHub(FakeHub):
    """Names a sum that is a path."""

    def etag(self, name: str, data: bytes) -> str:
        return "../../../../sum" if name == "notes.safetensors.txt" else super().etag(name, data)


@pytest.fixture(autouse=True)
def _online_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(hub_files, "_LARGE", 10)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def test_nothing_is_written_outside_the_cache(tmp_path: Path) -> None:
    whole = {path.name: path.read_bytes() for path in write_folder(tmp_path / "upstream").iterdir()}
    strange = (
        "../../../../escaped.safetensors.txt",
        "/escaped.safetensors.txt",
        "..\\escaped.safetensors.txt",
        "notes.safetensors.txt",
    )
    lfs = frozenset({"model.safetensors", *strange})
    hub = LyingHub(files=whole | dict.fromkeys(strange, b"from elsewhere"), lfs=lfs)
    cache = tmp_path / "deep" / "down" / "here" / "cache"
    with serve(hub):
        found = Hub(cache_dir=cache, endpoint=hub.url, sleep=lambda _: None).find("someone/tiny")
    assert (found.path / "model.safetensors").is_file()
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(cache)]
    assert {path.parent.name for path in outside} == {"upstream"}
    assert not [asked for asked in hub.requests if "escaped" in asked or "notes" in asked]
