from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from ocr_mlx.engine.build import _identity, _loader, _published_bytes, build_service
from ocr_mlx.errors import OutOfMemory, UnknownModel
from ocr_mlx.settings import Settings


def options(**environ: str):  # type: ignore[no-untyped-def]
    return Settings.from_env(environ).engine_options()


def test_the_base_of_an_adapter_stays_inside_the_file_roots_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def find(name: str, **more: object) -> object:
        asked.append(more["roots"])
        raise UnknownModel("enough")

    monkeypatch.setattr("ocr_mlx.model.hub.find", find)
    roots, default = tmp_path / "roots", tmp_path / "default"
    (roots / "adapter").mkdir(parents=True)
    default.mkdir()
    fenced = options(OCR_MLX_FILE_ROOTS=str(roots), OCR_MLX_MODEL=str(default))
    for which, name in ((fenced, roots / "adapter"), (fenced, default), (options(), roots / "adapter")):
        with pytest.raises(UnknownModel):
            _loader(which, None, 1, None)(str(name), lambda _event: None)  # type: ignore[arg-type]
    assert asked == [(roots,), None, None]


def test_all_names_of_a_model_are_one(tmp_path: Path) -> None:
    assert _identity("Nougat") == _identity("facebook/nougat-small")
    assert _identity(str(tmp_path)) == _identity(f"{tmp_path}/../{tmp_path.name}")
    with pytest.raises(UnknownModel):
        _identity("nougatt")


def test_what_is_too_large_is_told_before_it_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, **more: object) -> object:
        raise AssertionError("asked the hub")

    monkeypatch.setattr("ocr_mlx.model.hub.find", find)
    load = _loader(options(), None, 100 * 2**20, None)  # type: ignore[arg-type]
    with pytest.raises(OutOfMemory, match="models may fill 100 MiB"):
        load("nougat", lambda _event: None)
    assert 0 < _published_bytes("nougat", "float16") * 2 == _published_bytes("facebook/nougat-small", "float32")
    assert _published_bytes("facebook/nougat-small@main", "float16") == _published_bytes("nougat", "float16")
    assert _published_bytes("somebody/else", None) == 0


def test_room_is_made_before_a_model_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    class Reader:
        def call(self, function: object) -> Future[object]:
            done.append("read")
            future: Future[object] = Future()
            future.set_exception(RuntimeError("[malloc] Unable to allocate 5 bytes."))
            return future

    load = _loader(options(), Reader(), 2**40, lambda name, size: done.append((name, size)))  # type: ignore[arg-type]
    with pytest.raises(OutOfMemory):
        load("builtin", lambda _event: None)
    ((name, size), read) = done  # type: ignore[misc]
    assert (name, read) == ("builtin", "read") and 4e6 < size < 20e6


@pytest.mark.parametrize(("setting", "expected"), [("1", True), ("0", False)])
def test_the_deterministic_setting_reaches_the_worker(
    setting: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    def worker(**how: object) -> None:
        assert how["deterministic"] is expected
        raise Asked

    monkeypatch.setattr("ocr_mlx.engine.worker.Worker", worker)
    with pytest.raises(Asked):
        build_service(options(OCR_MLX_DETERMINISTIC=setting))


def test_the_page_processes_are_as_many_as_are_set_and_end_with_a_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    class Processes:
        def __init__(self, _limits: object, *, processes: int) -> None:
            told.append(processes)

        def warm(self) -> None:
            told.append("warm")

        def close(self) -> None:
            told.append("closed")

    def worker(**_how: object) -> None:
        raise OSError

    monkeypatch.setattr("ocr_mlx.pages.pool.PageProcesses", Processes)
    monkeypatch.setattr("ocr_mlx.engine.worker.Worker", worker)
    with pytest.raises(OSError):
        build_service(options(OCR_MLX_RENDER_PROCESSES="3"))
    assert told == [3, "warm", "closed"]
