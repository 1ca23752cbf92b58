"""What jobs need to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocr_mlx.jobs.webhook import WebhookOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOptions:
    """What jobs need to know.

    `folder` is theirs alone; `redis_url` empty keeps them there; `page_seconds` of decoding for each page; `ttl` seconds that
    a record outlives its job; `most_waiting` jobs; `at_once` jobs that one process reads; `drain` seconds that running
    pages get when the server ends; the webhooks' `timeout` in seconds, `retries` after the first attempt.
    """

    folder: Path
    redis_url: str = ""
    page_seconds: float = 300.0
    ttl: float = 3600.0
    most_waiting: int = 1000
    at_once: int = 4
    drain: float = 5.0
    webhook_timeout: float = 30.0
    webhook_retries: int = 5
    webhook_secret: str = field(default="", repr=False)
    webhook_private: bool = False

    @property
    def webhooks(self) -> WebhookOptions:
        """The part that is about webhooks."""
        from ocr_mlx.jobs.webhook import WebhookOptions

        return WebhookOptions(
            timeout=self.webhook_timeout,
            retries=self.webhook_retries,
            secret=self.webhook_secret,
            private=self.webhook_private,
            drain=self.drain,
        )
