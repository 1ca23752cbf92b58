"""What the routes share: settings, the engine, documents on their way, jobs, models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from ocr_mlx.jobs.base import Jobs
from ocr_mlx.server.choice import ModelChoice
from ocr_mlx.server.metrics import Metrics
from ocr_mlx.server.running import DocumentRunner, EngineSlot
from ocr_mlx.settings import Settings
from ocr_mlx.utils.logs import LogTail


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerContext:
    """Everything a route may need. `shutdown` ends the server after the answer has gone out."""

    settings: Settings
    engine: EngineSlot
    runner: DocumentRunner
    jobs: Jobs
    models: ModelChoice
    port: int
    instance: str
    shutdown: Callable[[], None]
    logs: LogTail = field(repr=False)
    metrics: Metrics = field(default_factory=Metrics, repr=False)


def context_of(request: Request) -> ServerContext:
    """The context that the application was made with."""
    context: ServerContext = request.app.state.context
    return context


Context = Annotated[ServerContext, Depends(context_of)]
