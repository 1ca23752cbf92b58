"""`ocr_mlx read` with the real service and real files; only the model is made up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from ocr_mlx.cli.app import Tools, main
from ocr_mlx.domain import OcrRequest
from ocr_mlx.engine.cache import ModelCache
from ocr_mlx.engine.service import OcrService
from ocr_mlx.engine.worker import Worker
from ocr_mlx.pages.fetch import FetchLimits, fetch
from ocr_mlx.pages.limits import PageLimits
from ocr_mlx.pages.load import Document, open_document
from ocr_mlx.pages.pool import PageProcesses
from ocr_mlx.settings import Settings
from tests.unit.fakes import FakeClock, fake_model, ids, page


def build(_settings: Settings) -> OcrService:
    """With processes of its own, which end with it."""
    processes = PageProcesses()
    return made(processes, on_close=processes.close)


def made(processes: PageProcesses, **options: Any) -> OcrService:
    def opened(request: OcrRequest) -> Document:
        return open_document(fetch(request.source, FetchLimits()), limits=PageLimits(), renderer=processes)

    worker = Worker()
    model = fake_model([[ids("the text")]])
    cache = ModelCache(lambda _name, _on_event: model, worker.call, FakeClock(), keep_alive=10)
    return OcrService(cache, worker, opened, default_model="fake", **options)


@pytest.fixture(scope="module")
def processes() -> Iterator[PageProcesses]:
    with PageProcesses() as shared:
        yield shared


@pytest.mark.parametrize("order", list(permutations(["good.png", "missing.png", "empty.png"])))
def test_a_missing_and_an_empty_file_leave_the_good_one_alone(
    order: tuple[str, ...],
    processes: PageProcesses,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    page(0, 0).image.save(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(SystemExit) as ended:
        main(
            ["read", *(str(tmp_path / name) for name in order)],
            Tools(settings=Settings, build=lambda _settings: made(processes)),
        )
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (1, "the text\n")
    told = [Path(line.partition(": ")[0]).name for line in err.splitlines()]
    assert told == [name for name in order if name != "good.png"]
