"""Addresses that callers name for webhooks and documents, and what servers redirect to. Nothing is sent."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from scripts.fuzzing.parts import text_of, typed

from ocr_mlx.errors import FetchFailed
from ocr_mlx.jobs import posting
from ocr_mlx.pages import addresses, remote


def one(data: bytes) -> None:
    """The first line is an address, the second what it redirects to, the third what its host resolves to."""
    url, location, host = [*text_of(data).split("\n"), "", ""][:3]

    def resolver(_host: str, _port: int) -> list[str]:
        return [host]

    if not _is_address(host):
        host = "127.0.0.1"
    public = addresses.is_public(host)
    with typed():
        posting.check_address(url, private=False, resolver=resolver)
        assert public, "a webhook to a private address"
    with typed():
        first = remote._parse(url)
        for one_url in (first, _redirected(first, location)):
            if one_url is not None:
                assert one_url.scheme in ("http", "https") and one_url.host
                remote.core_url(one_url)
                remote._headers(one_url)
                remote._public_name(one_url)


def _redirected(first: object, location: str) -> object:
    try:
        return remote._redirect(first, location.encode("utf-8", "replace").decode("latin-1"))  # type: ignore[arg-type]
    except FetchFailed:
        return None


def _is_address(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
        return bool(ip_address(text))
    except (OSError, ValueError):
        return False
