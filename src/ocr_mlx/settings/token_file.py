"""The server's token in a file, so that it need not stand in the environment."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from ocr_mlx.settings.kinds import TOKEN, InvalidSetting

NAME: Final = "OCR_MLX_TOKEN_FILE"
_MOST: Final = 4096
"""Bytes; no token is longer."""


def read_token(path: Path) -> str:
    """The first line of the file. Raises InvalidSetting, which never repeats what stands there."""
    try:
        with path.open("rb") as file:
            line = file.read(_MOST).partition(b"\n")[0].strip()
    except OSError as error:
        raise InvalidSetting(
            f"{NAME} cannot be read: {error.strerror}.", hint="Name a file whose first line is the token."
        ) from None
    if not line:
        raise InvalidSetting(f"{NAME} begins with an empty line.", hint="The first line of that file is the token.")
    try:
        return str(TOKEN.parse(line.decode()))
    except ValueError:
        raise InvalidSetting(f"{NAME} holds no token.", hint=f"A token is {TOKEN.allowed}.") from None


def is_exposed(path: Path) -> bool:
    """Whether other users of this machine may read the file."""
    return os.name == "posix" and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
