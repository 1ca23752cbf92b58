"""Where the local server is: its record in the state folder says so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx

DEFAULT_URL = "http://127.0.0.1:7771"
_PATTERN = "server-*.json"
_INSTANCE = "X-OCR-MLX-Instance"
_PATIENCE = 1.0


def local_server() -> tuple[str, str | None]:
    """Address and token of the newest server of this user that answers, else the usual address.

    The token is there where the server made one for its run; one that was set is the user's to give.
    """
    found = next((record for record in _records(_state_folder()) if _answers(record)), {"url": DEFAULT_URL})
    token = found.get("token")
    return found["url"], token if isinstance(token, str) else None


def _state_folder() -> Path:
    """Where servers of this user leave their record: the same rule as the server's own."""
    configured = os.environ.get("OCR_MLX_STATE_DIR", "").strip()
    if configured:
        return Path(configured).expanduser()
    import platformdirs

    try:
        return platformdirs.user_state_path("ocr_mlx", appauthor=False)
    except RuntimeError:  # a user without a home
        return Path(os.devnull, "ocr_mlx")


def _records(folder: Path) -> list[dict[str, Any]]:
    """The records that can be read, newest first."""
    found: list[tuple[float, dict[str, Any]]] = []
    for path in folder.glob(_PATTERN):
        try:
            record = json.loads(path.read_text("utf-8"))
            if isinstance(record["url"], str) and isinstance(record["instance"], str):
                found.append((path.stat().st_mtime, record))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [record for _, record in sorted(found, key=lambda item: item[0], reverse=True)]


def _answers(record: dict[str, Any]) -> bool:
    """Whether that very server is still there; a dead one's port may belong to another program by now."""
    try:
        with httpx.Client(trust_env=False, timeout=_PATIENCE) as client:
            answer = client.get(f"{record['url']}/livez")
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return bool(answer.headers.get(_INSTANCE) == record["instance"])
