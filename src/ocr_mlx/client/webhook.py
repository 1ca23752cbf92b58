"""Whether a webhook comes from the server that knows the secret."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping

SIGNATURE = "X-OCR-MLX-Signature"
TIMESTAMP = "X-OCR-MLX-Timestamp"
MOST_AGE = 300.0


def verify_webhook(
    body: bytes, headers: Mapping[str, str], secret: str, *, most_age: float = MOST_AGE, now: float | None = None
) -> bool:
    """Whether `body`, the request's bytes as they came, is signed with the server's `OCR_MLX_WEBHOOK_SECRET`, lately.

    `headers` may be spelt in any way; Django's `request.headers` and `request.META` do as well. One that is older than
    `most_age` seconds is refused, so that nobody can send it again later. `now` is Unix time, for tests.
    Raises ValueError for an empty secret, with which anybody could sign.
    """
    if not secret:
        raise ValueError("The secret is empty: set OCR_MLX_WEBHOOK_SECRET for the server, and give it here.")
    found = {_plain(name): value for name, value in headers.items() if isinstance(value, str)}
    timestamp, given = found.get(_plain(TIMESTAMP), ""), found.get(_plain(SIGNATURE), "")
    if not timestamp.isascii() or not timestamp.isdigit():
        return False
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    signed = hmac.compare_digest(f"sha256={mac.hexdigest()}".encode(), given.encode("utf-8", "replace"))
    return signed and abs((time.time() if now is None else now) - int(timestamp)) <= most_age


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("http-")
