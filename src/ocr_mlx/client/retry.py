"""When to try again, and how long to wait before."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

LATER = (429, 503)
"""Statuses that say: not now."""
LONGEST = 30.0
"""Seconds; a server that wants more gets no second request."""


def delay(response: httpx.Response, attempt: int, retries: int) -> float | None:
    """Seconds to wait before the call is made again; None when its answer stands. `attempt` counts from 0."""
    if response.status_code not in LATER or attempt >= retries:
        return None
    wanted = _seconds(response.headers.get("Retry-After", ""), default=min(0.5 * 2**attempt, LONGEST))
    return wanted if wanted <= LONGEST else None


def pauses() -> Iterator[float]:
    """Seconds between looks at a job: soon at first, then every two seconds."""
    pause = 0.1
    while True:
        yield pause
        pause = min(pause * 1.5, 2.0)


def _seconds(text: str, default: float) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return default
