"""Which network addresses a document may come from: public ones, in every disguise IPv6 has for IPv4."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from ocr_mlx.errors import FetchFailed, SourceForbidden

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], list[str]]

_SHOWN = 100
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = IPv6Network("::/96")
_NEVER = (IPv4Network("192.0.0.0/24"), IPv4Network("168.63.129.16/32"), IPv6Network("3fff::/20"))
"""Public to some Python versions, yet reserved, or answered by a cloud's own host."""


def is_public(address: str) -> bool:
    """Whether `address` leads to the internet, and not to this machine, this network or a group."""
    ip = _unwrap(ip_address(address.partition("%")[0]))
    return not (
        not ip.is_global
        or ip.is_multicast
        or ip.is_reserved
        or ip.is_unspecified
        or ip.is_loopback
        or ip.is_link_local
        or (isinstance(ip, IPv6Address) and (ip.is_site_local or ip.teredo is not None or ip in _NAT64_LOCAL))
        or any(ip in network for network in _NEVER)
    )


def _unwrap(ip: Address) -> Address:
    if isinstance(ip, IPv4Address):
        return ip
    embedded = ip.ipv4_mapped or ip.sixtofour
    if embedded is None and (ip in _NAT64 or ip in _COMPATIBLE):
        embedded = IPv4Address(int(ip) & 0xFFFFFFFF)
    return embedded or ip


def resolve(host: str, port: int) -> list[str]:
    """The numeric addresses of `host`, in the system's order. OSError when there are none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def resolve_within(seconds: float, resolver: Resolver, host: str, port: int) -> list[str]:
    """Like `resolver`, but FetchFailed after `seconds`: name servers know no deadline."""
    answer: list[str] = []

    def ask() -> None:
        try:
            answer.extend(resolver(host, port))
        except (OSError, UnicodeError):
            return

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise FetchFailed(
            f"The host {host[:_SHOWN]} was not found.", hint="Check the address and the network connection."
        )
    return answer


def check_public(host: str, addresses: list[str]) -> None:
    """SourceForbidden when any address of `host` is not public: one bad address makes the name untrustworthy."""
    if not all(is_public(address) for address in addresses):
        raise SourceForbidden(
            f"The host {host[:_SHOWN]} is on a private network or on this machine.",
            hint="Send the document itself, or set OCR_MLX_FETCH_PRIVATE=1 to allow such addresses.",
        )
