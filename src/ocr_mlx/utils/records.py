"""The record that a running server leaves in the state folder, so that other programs find it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PATTERN = "server-*.json"


def state_folder(configured: Path | None) -> Path:
    """The configured folder, or this user's state folder. It may not exist yet."""
    if configured is not None:
        return configured
    import platformdirs

    return platformdirs.user_state_path("ocr_mlx", appauthor=False)


def write(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write `server-<port>.json`, mode 0600, at once or not at all. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"server-{record['port']}.json"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".server-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def remove(path: Path, instance: str) -> None:
    """Remove the record, unless a later server has written its own there."""
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
    """The records whose process is alive."""
    import psutil

    for path in sorted(folder.glob(PATTERN)):
        record = read(path)
        pid = record.get("pid")
        if isinstance(pid, int) and pid > 0 and psutil.pid_exists(pid):
            yield record
