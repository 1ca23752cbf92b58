"""Blobs in a folder that only the user can read: for a limited time, and not too many of them."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

FOLDER: Final = "ocr_mlx_pages"
"""The folder's own name inside the one that is configured: everything in it may be removed."""
MOST_BYTES: Final = 256 * 1024 * 1024
MOST_BLOB: Final = 32 * 1024 * 1024
_NAME: Final = re.compile(r"[0-9a-f]{64}\.page")
_TEMPORARY: Final = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.tmp")
_BEING_WRITTEN: Final = 60.0
"""Seconds after which a file that is not whole belongs to nobody."""
_ROOM: Final = 0.9


class PageFiles:
    """Safe for several threads and for several processes with the same folder. A disk that fails only costs the blobs."""

    def __init__(
        self, parent: Path, *, ttl: float, most: int = MOST_BYTES, now: Callable[[], float] = time.time
    ) -> None:
        """`ttl` seconds for each blob from when it was written; `most` bytes for all of them."""
        self._folder = parent.expanduser() / FOLDER
        self.ttl = ttl
        self._most = most
        self._now = now
        self._lock = threading.Lock()
        self._held = 0
        self._complained = False

    def get(self, name: str) -> bytes | None:
        """The blob of this name (64 hex digits); None where there is none or its time is over."""
        path = self._path(name)
        if not self._is_ours():
            return None
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                about = os.fstat(file.fileno())
                usable = stat.S_ISREG(about.st_mode) and about.st_size <= MOST_BLOB and not self._is_late(about)
                data = file.read(MOST_BLOB) if usable else None
        except FileNotFoundError:
            return None
        except OSError:
            data = None
        if data is None:
            self.remove(name)
        return data

    def put(self, name: str, data: bytes) -> None:
        """Write it whole, or not at all."""
        temporary = self._folder / f"{name}.{secrets.token_hex(8)}.tmp"
        try:
            self._make()
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(data)
            os.replace(temporary, self._path(name))
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            self._complain(error)
            return
        with self._lock:
            self._held += len(data)
            full = self._held > self._most
        if full:
            self.sweep()

    def remove(self, name: str) -> None:
        """Forget a blob."""
        with contextlib.suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what is late, what is no blob, and the oldest while there are too many bytes."""
        blobs = [(about.st_mtime, about.st_size, path) for path, about in self._look() if self._stays(path, about)]
        held = sum(size for _, size, _ in blobs)
        if held > self._most:
            for _, size, path in sorted(blobs):
                if held <= self._most * _ROOM:
                    break
                _unlink(path)
                held -= size
        with self._lock:
            self._held = held

    def _look(self) -> list[tuple[Path, os.stat_result]]:
        if not self._is_ours():
            return []
        try:
            with os.scandir(self._folder) as entries:
                return [(Path(entry.path), entry.stat(follow_symlinks=False)) for entry in entries]
        except FileNotFoundError:
            return []
        except OSError as error:
            self._complain(error)
            return []

    def _stays(self, path: Path, about: os.stat_result) -> bool:
        if stat.S_ISDIR(about.st_mode):
            return False
        if _TEMPORARY.fullmatch(path.name) and self._now() - about.st_mtime < _BEING_WRITTEN:
            return False
        if stat.S_ISREG(about.st_mode) and _NAME.fullmatch(path.name) and not self._is_late(about):
            return True
        _unlink(path)
        return False

    def _is_late(self, about: os.stat_result) -> bool:
        return self._now() - about.st_mtime >= self.ttl

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.page"

    def _make(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._is_ours():
            raise PermissionError(errno.EPERM, "it is a link, or belongs to another user")
        if stat.S_IMODE(self._folder.lstat().st_mode) != 0o700:
            self._folder.chmod(0o700)

    def _is_ours(self) -> bool:
        """Whether the folder is there, belongs to this user and is no link: others' files are neither read nor removed."""
        try:
            about = self._folder.lstat()
        except OSError:
            return False
        return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning("the page cache's folder cannot be used: %s", error.strerror or type(error).__name__)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
