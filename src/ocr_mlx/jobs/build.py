"""Puts the jobs together: where they are kept, and who reads them."""

from __future__ import annotations

from collections.abc import Callable

from ocr_mlx.jobs.base import Jobs, Reader
from ocr_mlx.jobs.options import JobOptions


def build_jobs(options: JobOptions, engine: Callable[[], Reader]) -> Jobs:
    """Jobs that have not started. `engine` may block and raise OcrMlxError; it is called once there is work."""
    if options.redis_url:
        from ocr_mlx.jobs.redis.jobs import build_redis_jobs

        return build_redis_jobs(options, engine)
    from ocr_mlx.jobs.local.runner import Runner, RunnerOptions
    from ocr_mlx.jobs.local.store import SqliteStore
    from ocr_mlx.jobs.service import StoredJobs
    from ocr_mlx.jobs.webhook import Webhooks

    store = SqliteStore(options.folder, ttl=options.ttl, most_waiting=options.most_waiting)
    webhooks = Webhooks(store, options.webhooks)
    runner = Runner(
        store,
        engine,
        RunnerOptions(at_once=options.at_once, page_seconds=options.page_seconds, drain=options.drain),
        on_final=webhooks.wake,
    )
    return StoredJobs(store, engine, runner, webhooks)
