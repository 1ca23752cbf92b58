from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ocr_mlx.utils import records


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mine(port: int, **more: Any) -> dict[str, Any]:
    return {"port": port, "pid": os.getpid(), "started": records.started(), "instance": "a"} | more


def dead(port: int) -> dict[str, Any]:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return mine(port, pid=gone.pid)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mask", [0, 0o022, 0o377])
def test_written_private_read_and_removed(tmp_path: Path, mask: int) -> None:
    folder = tmp_path / "new"
    with umask(mask):
        path = records.write(folder, {"port": 5, "instance": "a"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert records.read(path) == {"port": 5, "instance": "a"}
    records.remove(path, "a")
    assert names(folder) == []


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    records.write(tmp_path, {"port": 5})
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


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
    assert names(tmp_path) == []


def test_only_living_servers_run(tmp_path: Path) -> None:
    records.write(tmp_path, dead(1))
    records.write(tmp_path, mine(2))
    records.write(tmp_path, mine(3, started=records.started() - 60))  # an earlier process with this one's id
    records.write(tmp_path, {"port": 4, "pid": os.getpid()})
    records.write(tmp_path, mine(5, pid=10**30))
    (tmp_path / "server-6.json").write_text("{broken")
    (tmp_path / "server-7.json").write_text('["list"]')
    assert [record["port"] for record in records.running(tmp_path)] == [2, 4]


def test_a_process_that_is_not_reaped_yet_does_not_run(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        records.write(tmp_path, {"port": 1, "pid": process.pid})
        assert len([*records.running(tmp_path)]) == 1
        process.kill()
        end = time.monotonic() + 10
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end
        assert [*records.running(tmp_path)] == []


def test_stale_records_go_and_living_ones_stay(tmp_path: Path) -> None:
    records.write(tmp_path, dead(1))
    records.write(tmp_path, mine(2))
    records.write(tmp_path, mine(3, started=1.0))
    (tmp_path / "server-4.json").write_text("{broken")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "notes.json").write_text("{}")
    cut_off, now = tmp_path / ".server-abc", tmp_path / ".server-now"
    for path in (cut_off, now):
        path.write_text("{")
    os.utime(cut_off, (time.time() - 3600,) * 2)
    records.tidy(tmp_path)
    assert names(tmp_path) == [".server-now", "jobs", "notes.json", "server-2.json"]
    records.tidy(tmp_path / "none")


def test_a_record_that_is_replaced_meanwhile_is_not_taken_for_the_stale_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that tidies and one that takes the stale record's port: the second waits until the first has done."""
    path = records.write(tmp_path, dead(1))
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    code = f"""
import pathlib
from ocr_mlx.utils import records
print("here", flush=True)
records.write(pathlib.Path({str(tmp_path)!r}), {{"port": 1, "instance": "new"}})
"""
    monkeypatch.setattr(records, "_TRIES", 1000)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"here\n"
        time.sleep(0.1)
        assert records.read(path)["instance"] == "a"
        os.close(handle)
        assert writer.wait(10) == 0
    assert records.read(path)["instance"] == "new"


def test_nobody_waits_for_long_for_another_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_TRIES", 2)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    path = records.write(tmp_path, mine(1))
    records.tidy(tmp_path)
    records.remove(path, "a")
    os.close(handle)
    assert names(tmp_path) == []


def test_the_configured_folder_wins(tmp_path: Path) -> None:
    assert records.state_folder(tmp_path) == tmp_path
    assert records.state_folder(None).name


def test_a_user_without_a_home_has_a_state_folder_that_nothing_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(*_: object, **__: object) -> Path:
        raise RuntimeError

    monkeypatch.setattr("platformdirs.user_state_path", homeless)
    folder = records.state_folder(None)
    assert list(records.running(folder)) == []
    records.tidy(folder)
    with pytest.raises(OSError, match="Not a directory"):
        records.write(folder, {"port": 1})
