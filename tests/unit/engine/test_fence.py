"""Which folders a request may name as a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocr_mlx.engine.build import _loader
from ocr_mlx.engine.fence import check_folder, check_there
from ocr_mlx.errors import SourceForbidden, UnknownModel
from ocr_mlx.settings import Settings


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, ...]:
    (tmp_path / "roots" / "model").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "roots" / "link").symlink_to(tmp_path / "elsewhere")
    return (tmp_path / "roots",)


def test_what_may_be_named(tmp_path: Path, roots: tuple[Path, ...]) -> None:
    for name in (str(tmp_path / "roots" / "model"), "builtin", "facebook/nougat-small", "/anywhere/default"):
        check_folder(name, roots, {"/anywhere/default"})
    check_folder(str(tmp_path / "elsewhere"), None, ())


def test_a_folder_outside_is_refused_in_the_same_words_whether_it_is_there_or_not(
    tmp_path: Path, roots: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    names = (
        "elsewhere",
        "roots/model/../../elsewhere",
        "roots/link",
        "roots/link/deeper",
        "nowhere",
        "roots/../nowhere",
    )
    said = set()
    for name in (*(f"{tmp_path}/{name}" for name in names), "~", "~/x", "~nobody-of-this-name/x", "/a\0b", "."):
        with pytest.raises(SourceForbidden) as refusal:
            check_folder(name, roots, {"/anywhere/default"})
        said.add(str(refusal.value))
    assert len(said) == 1 and str(tmp_path) not in said.pop()


def test_the_engine_asks_before_it_looks(tmp_path: Path, roots: tuple[Path, ...]) -> None:
    settings = Settings.from_env({"OCR_MLX_FILE_ROOTS": str(roots[0]), "OCR_MLX_MODEL": "builtin"})
    load = _loader(settings.engine_options(), None, 1, None)  # type: ignore[arg-type]
    with pytest.raises(SourceForbidden):
        load(str(tmp_path / "elsewhere"), lambda _event: None)


def test_a_folder_that_the_settings_name_and_that_is_not_there_keeps_its_place(tmp_path: Path) -> None:
    gone, there = str(tmp_path / "gone"), str(tmp_path)
    with pytest.raises(UnknownModel, match="'gone' is not on this machine") as refused:
        check_there(gone, {gone, there})
    assert there not in str(refused.value)
    check_there(there, {gone, there})
    check_there(gone, ())  # who named it may be told its name
    check_there("builtin", {"builtin"})
    options = Settings.from_env({"DEEPSEEK_OCR_MODEL_PATH": gone}).engine_options()
    with pytest.raises(UnknownModel, match="'gone' is not on this machine"):
        _loader(options, None, 1, None)(gone, lambda _event: None)  # type: ignore[arg-type]
