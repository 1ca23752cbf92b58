from __future__ import annotations

from pathlib import Path

import pytest

from ocr_mlx.engine.build import _check_fence, _identity, _loader
from ocr_mlx.errors import SourceForbidden, UnknownModel
from ocr_mlx.settings import Settings


def options(**environ: str):  # type: ignore[no-untyped-def]
    return Settings.from_env(environ).engine_options()


def test_model_folders_stay_inside_the_file_roots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "roots" / "model", tmp_path / "elsewhere"
    inside.mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "roots" / "link").symlink_to(outside)
    fenced = options(OCR_MLX_FILE_ROOTS=str(tmp_path / "roots"), OCR_MLX_MODEL=str(tmp_path / "default"))
    for name in (str(inside), "builtin", "facebook/nougat-small", str(tmp_path / "default")):
        _check_fence(name, fenced)
    for name in (str(outside), str(inside / ".." / ".." / "elsewhere"), str(tmp_path / "roots" / "link")):
        with pytest.raises(SourceForbidden):
            _check_fence(name, fenced)
    _check_fence(str(outside), options())


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
    fenced = options(OCR_MLX_FILE_ROOTS=str(roots), OCR_MLX_MODEL=str(default))
    for which, name in ((fenced, roots / "adapter"), (fenced, default), (options(), roots / "adapter")):
        with pytest.raises(UnknownModel):
            _loader(which, None)(str(name), lambda _event: None)  # type: ignore[arg-type]
    assert asked == [(roots,), None, None]


def test_all_names_of_a_model_are_one(tmp_path: Path) -> None:
    assert _identity("Nougat") == _identity("facebook/nougat-small")
    assert _identity(str(tmp_path)) == _identity(f"{tmp_path}/../{tmp_path.name}")
    with pytest.raises(UnknownModel):
        _identity("nougatt")
