"""Opening a file of this machine: inside the roots where there are any, and with no link on the way to it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ocr_mlx.errors import SourceForbidden, SourceNotFound

_KERNEL: Final = (Path("/proc"), Path("/sys"))
_HANDLES: Final = Path("/dev/fd")
"""Files that this process has open already, on systems where these are no links."""
_FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Not blocking, so that opening a pipe without a writer does not wait."""
_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_NO_LINK_AT_ALL: Final = getattr(os, "O_NOFOLLOW_ANY", 0)
"""macOS has one flag for what a walk does elsewhere."""
_SHOWN: Final = 200


def open_file(path: Path, roots: Sequence[Path] | None) -> int:
    """A handle of a regular file, for reading; the caller closes it. `roots` None: it may be anywhere.

    SourceForbidden for what is outside the roots, whether it is there or not, for devices, pipes, sockets, folders and what
    the kernel makes up; SourceNotFound. A link that takes a folder's place while this runs leads nowhere.
    """
    real = _real(path, roots)
    if roots is not None and not is_inside(real, roots):
        raise SourceForbidden(
            f"{shown(path)} is outside the folders that may be read.",
            hint="Move the file into one of them, send its bytes, or add its folder to OCR_MLX_FILE_ROOTS.",
        )
    if any(real.is_relative_to(folder) for folder in (*_KERNEL, _HANDLES)):
        raise _made_up(path)
    try:
        handle = _open_unlinked(real)
    except (OSError, ValueError) as error:
        raise explained(path, error) from error
    try:
        _check_regular(path, os.fstat(handle))
    except BaseException:
        os.close(handle)
        raise
    return handle


def is_inside(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a path leads into one of `roots`, links followed, and whether or not there is anything."""
    try:
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(os.path.realpath(root)) for root in roots)
    except (OSError, ValueError):
        return False


def shown(path: Path) -> str:
    """The path for a message: on one line, cut where it is long, and without what cannot be printed or sent."""
    text = "".join(char if char.isprintable() else "?" for char in str(path))
    return text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}"


def explained(path: Path, error: OSError | ValueError) -> SourceNotFound | SourceForbidden:
    """What the system says about a path, in words for a user."""
    if isinstance(error, ValueError):
        return SourceNotFound(f"{shown(path)} is no possible path.", hint="Check its spelling.")
    if isinstance(error, PermissionError):
        return SourceForbidden(
            f"{shown(path)} may not be read.", hint="Check the permissions of the file and its folders."
        )
    if error.errno in (errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP):
        return _device(path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return SourceNotFound(
            f"There is no file {shown(path)}.", hint="Check the path; relative paths start at the working folder."
        )
    if error.errno == errno.ELOOP:
        return SourceNotFound(f"{shown(path)} is not a path that can be followed.", hint="Check its links.")
    return SourceNotFound(f"{shown(path)} cannot be opened: {error.strerror}.", hint="Check the path.")


def _real(path: Path, roots: Sequence[Path] | None) -> Path:
    """The absolute path without links. Where there are roots, `..` is taken by its letters: what it would lead to by way
    of a link outside is nobody's to find out."""
    try:
        return Path(os.path.realpath(path if roots is None else os.path.normpath(path)))
    except (OSError, ValueError) as error:
        raise explained(path, error) from error


def _open_unlinked(real: Path) -> int:
    """Open an absolute path, following no link in it: one that is there now was not there when it was resolved."""
    if _NO_LINK_AT_ALL:
        return os.open(real, _FILE | _NO_LINK_AT_ALL)
    folder = os.open(real.anchor, _FOLDER)
    try:
        for name in real.parts[1:-1]:
            outer, folder = folder, os.open(name, _FOLDER, dir_fd=folder)
            os.close(outer)
        return os.open(real.name or ".", _FILE | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def _check_regular(path: Path, about: os.stat_result) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise SourceForbidden(f"{shown(path)} is a folder.", hint="Name the files in it.")
    if not stat.S_ISREG(about.st_mode):
        raise _device(path)
    if about.st_dev in _kernel_devices():
        raise _made_up(path)


def _kernel_devices() -> set[int]:
    """The devices of the kernel's own file systems, which may be mounted elsewhere too."""
    here = os.stat("/").st_dev
    return {folder.stat().st_dev for folder in _KERNEL if folder.is_dir()} - {here}


def _device(path: Path) -> SourceForbidden:
    return SourceForbidden(f"{shown(path)} is a device or a pipe, not a file.", hint="Name a file.")


def _made_up(path: Path) -> SourceForbidden:
    return SourceForbidden(f"{shown(path)} belongs to the system and is not a document.", hint="Name another file.")
