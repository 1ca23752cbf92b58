"""Whether callers must show a token: always, where other machines can reach the server, unless it was opened on purpose."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import secrets

from ocr_mlx.settings import Settings
from ocr_mlx.settings.token_file import is_exposed

log = logging.getLogger(__name__)
BYTES = 32
"""Of randomness in a token that is made for one run."""


def settle(settings: Settings, address: str) -> tuple[Settings, str]:
    """The settings with the token that is asked for, and that token where it was made for this run, else an empty one.

    `address` is the numeric one that the server listens on. What the operator should know is logged, no token ever.
    """
    _warn_of_gaps(settings)
    if settings.token or not is_reachable(address):
        return settings, ""
    if settings.open:
        log.warning("other machines can reach this server, and OCR_MLX_OPEN lets them in without a token")
        return settings, ""
    log.warning(
        "other machines can reach this server, so it asks for a token that was made for this run: `token` in the line on "
        "stdout and in the record in the state folder; OCR_MLX_TOKEN or OCR_MLX_TOKEN_FILE sets one, OCR_MLX_OPEN=1 asks "
        "for none"
    )
    made = secrets.token_urlsafe(BYTES)
    return dataclasses.replace(settings, token=made), made


def is_reachable(address: str) -> bool:
    """Whether another machine can connect to a server that listens on this numeric address."""
    return not ipaddress.ip_address(address).is_loopback


def _warn_of_gaps(settings: Settings) -> None:
    if settings.token_file is not None and is_exposed(settings.token_file):
        log.warning("other users of this machine can read the file of OCR_MLX_TOKEN_FILE: `chmod 600` closes it")
    if "*" in settings.allowed_hosts and not settings.token:
        log.warning(
            "OCR_MLX_ALLOWED_HOSTS=* without a token lets any web page in that gives its own name to this machine"
        )
