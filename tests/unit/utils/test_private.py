from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from ocr_mlx.utils.private import make_private, no_core_dumps

ME = 1000


@pytest.fixture
def me(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who is not root, whoever runs the tests; root owns what is made then."""
    monkeypatch.setattr(os, "geteuid", lambda: ME)


def owned(folder: Path, owner: int) -> Path:
    folder.mkdir(exist_ok=True)
    try:
        os.chown(folder, owner, owner)
    except PermissionError:
        pytest.skip("only root gives folders away")
    return folder


def test_it_is_made_for_this_user_alone(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "b")
    make_private(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_my_own_and_roots_will_do_and_so_does_my_link(tmp_path: Path, me: None) -> None:
    make_private(owned(tmp_path / "mine", ME))
    make_private(owned(tmp_path / "roots", 0))
    (tmp_path / "link").symlink_to("mine")
    os.lchown(tmp_path / "link", ME, ME)
    make_private(tmp_path / "link")


def test_another_users_folder_is_refused_and_so_is_his_link_to_mine(tmp_path: Path, me: None) -> None:
    mine, his = owned(tmp_path / "mine", ME), owned(tmp_path / "his", 1234)
    (tmp_path / "link").symlink_to(mine)
    os.lchown(tmp_path / "link", 1234, 1234)
    (tmp_path / "to his").symlink_to(his)
    for folder in (his, tmp_path / "link", tmp_path / "to his"):
        with pytest.raises(PermissionError):
            make_private(folder)


def test_root_may_use_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    make_private(owned(tmp_path / "his", 1234))


def test_no_core_dumps() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        no_core_dumps()
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
