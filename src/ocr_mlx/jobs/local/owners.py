"""Who owns what in a folder that several processes share: an owner is a process that holds the lock on its own file.

The kernel lets go of the lock when the process ends, however it ends, so an owner is dead exactly when others can lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_PREFIX, _ENDING = "owner-", ".lock"


class Owner:
    """This process, or one part of it, as an owner in `folder`. Raises OSError when the folder cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.name = secrets.token_hex(8)
        self._path = _path(folder, self.name)
        self._handle = _hold(self._path)

    def close(self) -> None:
        """No longer an owner."""
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{_PREFIX}{name}{_ENDING}"


def _hold(path: Path) -> int:
    """Create and lock `path`; again where somebody took the new file for one that was left behind."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def bury(folder: Path, name: str) -> bool:
    """Whether that owner is dead. Removes what is left of it."""
    path = _path(folder, name)
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def bury_all(folder: Path) -> tuple[str, ...]:
    """The owners that live; what the dead ones left behind is removed."""
    found = folder.glob(f"{_PREFIX}*{_ENDING}")
    names = [path.name.removeprefix(_PREFIX).removesuffix(_ENDING) for path in found]
    return tuple(name for name in names if not bury(folder, name))


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is inside."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
