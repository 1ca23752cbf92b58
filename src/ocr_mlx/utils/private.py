"""Folders for what is nobody else's to read or to choose."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def make_private(folder: Path) -> None:
    """Make a folder for this user alone, and what leads to it; one that is there must be this user's, or root's.

    A link to such a folder will do, unless somebody else made the link. Raises PermissionError where another user could read
    or exchange what is kept there, and OSError. Whoever runs as root, as in a container, may use every folder.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    mine = (os.geteuid(), 0)
    if os.geteuid() != 0 and any(about.st_uid not in mine for about in (folder.lstat(), folder.stat())):
        raise PermissionError(errno.EPERM, "the folder belongs to another user")


def no_core_dumps() -> None:
    """Leave no image of this process on the disk when it crashes: documents are in it. Its children inherit that."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (ImportError, ValueError, OSError):  # not every system has the limit
        return
