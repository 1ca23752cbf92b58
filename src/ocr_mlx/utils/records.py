"""The record that a running server leaves in the state folder, so that other programs find it.

A record is stale when its process has ended, or when the process that has its id now began at another time.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PATTERN = "server-*.json"
_TEMPORARY = ".server-"
_NOWHERE = Path(os.devnull, "ocr_mlx")
"""Where nothing can be written, nor another user put anything."""
_CUT_OFF = 60.0
"""Seconds after which a file that is being written is not being written any more."""
_SAME = 2.0
"""Seconds between two readings of one process's start: Linux tells it by the boot time, which it rounds either way."""
_TRIES, _PAUSE = 50, 0.01


def state_folder(configured: Path | None) -> Path:
    """The configured folder, or this user's state folder. It may not exist yet; a user without a home has none that could."""
    if configured is not None:
        return configured
    import platformdirs

    try:
        return platformdirs.user_state_path("ocr_mlx", appauthor=False)
    except RuntimeError:
        return _NOWHERE


def started() -> float:
    """When this process began, in seconds since 1970."""
    import psutil

    return round(psutil.Process().create_time(), 2)


def write(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write `server-<port>.json`, mode 0600 whatever the umask, at once or not at all. Raises OSError."""
    _make(folder)
    path = folder / f"server-{record['port']}.json"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=_TEMPORARY)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(handle, 0o600)
            file.write(json.dumps(record) + "\n")
        with _alone(folder):
            Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def remove(path: Path, instance: str) -> None:
    """Remove the record, unless a later server has written its own there."""
    with _alone(path.parent), suppress(OSError):
        if read(path).get("instance") == instance:
            path.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The record, or an empty one where there is none that can be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def running(folder: Path) -> Iterator[dict[str, Any]]:
    """The records that are not stale."""
    for path in sorted(folder.glob(PATTERN)):
        record = read(path)
        if _lives(record):
            yield record


def tidy(folder: Path) -> None:
    """Remove stale records, and what a write that was cut off left behind. What cannot be read or removed stays."""
    with _alone(folder), suppress(OSError):
        for path in folder.glob(PATTERN):
            if os.access(path, os.R_OK) and not _lives(read(path)):
                path.unlink(missing_ok=True)
        for path in folder.glob(f"{_TEMPORARY}*"):
            if time.time() - path.stat().st_mtime > _CUT_OFF:
                path.unlink(missing_ok=True)


def _lives(record: Mapping[str, Any]) -> bool:
    import psutil

    pid, began = record.get("pid"), record.get("started")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return not isinstance(began, int | float) or abs(process.create_time() - began) <= _SAME
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's, but there
        return True


def _make(folder: Path) -> None:
    """Create it for this user alone, whatever the umask; one that is there stays as it is."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others out of the folder for a moment: a stale record may just be replaced by a new server's.

    After half a second without the lock it goes on: no server may hang because another one does.
    """
    handle = -1
    try:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            _lock(handle)
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def _lock(handle: int) -> None:
    for _ in range(_TRIES):
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
