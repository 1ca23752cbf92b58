"""Servers of ours that run on this machine, and which models they hold. Asking wakes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ocr_mlx.settings import Settings
from ocr_mlx.utils import records

_TIMEOUT: Final = 1.0
_INSTANCE: Final = "X-OCR-MLX-Instance"


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A model in a server's memory: `bytes` of weights, requests that use it now, seconds since the last one."""

    id: str
    bytes: int
    leases: int
    idle_seconds: float
    pinned: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that answered."""

    url: str
    pid: int
    version: str
    models: tuple[Held, ...]


def servers(settings: Settings) -> list[Server]:
    """Those whose record is in the state folder and who answer within a second as that very server; others are passed over."""
    found = records.running(records.state_folder(settings.state_dir))
    return [server for record in found if (server := _ask(record)) is not None]


def _ask(record: Mapping[str, Any]) -> Server | None:
    import httpx

    url = str(record.get("url", ""))
    try:
        with httpx.Client(trust_env=False, timeout=_TIMEOUT) as client:
            answer = client.get(f"{url}/health", headers={"Accept": "application/json"})
        if answer.headers.get(_INSTANCE) != record.get("instance"):  # its port is another program's by now
            return None
        state = answer.raise_for_status().json()
        models = tuple(_held(state["models"]))
        return Server(url=url, pid=int(record["pid"]), version=str(state["version"]), models=models)
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, TypeError, ValueError):
        return None


def _held(models: Any) -> Iterator[Held]:
    for model in models:
        yield Held(
            id=str(model["id"]),
            bytes=int(model["bytes"]),
            leases=int(model["leases"]),
            idle_seconds=float(model["idleSeconds"]),
            pinned=bool(model["pinned"]),
        )
