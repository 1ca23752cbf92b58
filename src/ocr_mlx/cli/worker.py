"""`ocr_mlx worker`: reads the pages of jobs that servers put into Redis, on this machine, until it is told to end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from ocr_mlx import __version__
from ocr_mlx.errors import EngineError, JobsUnavailable
from ocr_mlx.settings import InvalidSetting, Settings
from ocr_mlx.utils import logs, private
from ocr_mlx.utils.ending import Ending

log = logging.getLogger("ocr_mlx.worker")

LAST_RESORT = 10.0
"""Seconds after everything should have ended when the process ends even if a thread does not."""


def work(settings: Settings, threads: int) -> None:
    """Work until SIGTERM, Ctrl-C or SIGHUP; a second signal ends the process at once.

    Raises InvalidSetting when no Redis is configured, the packages for it are missing, or it refuses user or password.
    """
    if not settings.redis_url:
        raise InvalidSetting(
            "A worker reads jobs from Redis, and none is configured.",
            hint="Set OCR_MLX_REDIS_URL (redis://host:6379/0), or REDIS_HOST.",
        )
    from ocr_mlx.jobs.redis.jobs import GIVING_BACK_SECONDS, JobWorker, WorkerOptions, check_packages

    try:
        check_packages()
    except EngineError as error:
        raise InvalidSetting(error.message, hint=error.hint) from None
    private.no_core_dumps()
    logs.configure(settings.log_level, style=settings.log_format)
    options = settings.engine_options()
    from ocr_mlx.engine.build import build_service

    service = build_service(replace(options, queue_limit=max(options.queue_limit, threads)))
    try:
        worker = JobWorker(
            WorkerOptions(
                redis_url=settings.redis_url,
                threads=threads,
                page_seconds=settings.job_timeout,
                ttl=settings.job_ttl,
                drain=settings.drain,
            ),
            service,
        )
        _end_on_signals(worker.end, settings.drain + GIVING_BACK_SECONDS + LAST_RESORT)
        try:
            worker.run(lambda: _announce(settings.redis_url, worker.name, threads))
        except JobsUnavailable as error:
            raise InvalidSetting(error.message, hint=_hint(settings.redis_url)) from None
    finally:
        service.close()
    log.info("ended")


def _announce(url: str, name: str, threads: int) -> None:
    record = {
        "event": "ready",
        "worker": name,
        "pid": os.getpid(),
        "instance": secrets.token_hex(8),
        "version": __version__,
        "redis": _shown(url),
        "rows": threads,
    }
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()


def _shown(url: str) -> str:
    """The address without user, password and options."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _hint(url: str) -> str:
    return f"It is at {_shown(url)}: give it as redis://user:password@host:6379/0."


def _end_on_signals(end: Callable[[], None], seconds: float) -> None:
    """`end` is called from a signal's handler; `seconds` later the process ends even if a thread does not."""
    ending = Ending()

    def begin() -> None:
        ending.within(seconds)
        end()

    ending.start = begin
    ending.catch_signals()
