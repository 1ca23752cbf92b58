from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ocr_mlx.utils import records


def test_written_private_read_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    path = records.write(folder, {"port": 5, "instance": "a"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert records.read(path) == {"port": 5, "instance": "a"}
    records.remove(path, "a")
    assert list(folder.iterdir()) == []


def test_another_servers_record_stays(tmp_path: Path) -> None:
    path = records.write(tmp_path, {"port": 5, "instance": "a"})
    records.write(tmp_path, {"port": 5, "instance": "b"})
    records.remove(path, "a")
    assert records.read(path)["instance"] == "b"
    records.remove(tmp_path / "none", "a")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path, _target: Path) -> Path:
        raise OSError

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError):
        records.write(tmp_path, {"port": 5})
    assert list(tmp_path.iterdir()) == []


def test_only_living_servers_run(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    records.write(tmp_path, {"port": 1, "pid": gone.pid})
    records.write(tmp_path, {"port": 2, "pid": os.getpid()})
    (tmp_path / "server-3.json").write_text("{broken")
    (tmp_path / "server-4.json").write_text('["list"]')
    assert [record["port"] for record in records.running(tmp_path)] == [2]


def test_the_configured_folder_wins(tmp_path: Path) -> None:
    assert records.state_folder(tmp_path) == tmp_path
    assert records.state_folder(None).name
