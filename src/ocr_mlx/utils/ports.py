"""Take a port by binding it: no probing, so that nobody can slip in between."""

from __future__ import annotations

import errno
import os
import socket

TRIES = 100
_TAKEN = {errno.EADDRINUSE, errno.EACCES}


def listen(host: str, port: int, *, tries: int = TRIES, backlog: int = 2048) -> socket.socket:
    """A listening TCP socket on `host` at `port`, or at the next free one of `tries` ports; port 0 is any free one.

    Raises OSError when the address is not this machine's, or every port is taken.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    last = min(port + tries, 65536)
    for candidate in range(port, last):
        try:
            return _open(family, (address[0], candidate), backlog)
        except OSError as error:
            if error.errno not in _TAKEN or port == 0:
                raise
    raise OSError(errno.EADDRINUSE, f"No free port from {port} to {last - 1} on {host}.")


def _open(family: int, address: tuple[str | int, int], backlog: int) -> socket.socket:
    """Bind and listen at once: on Linux a bound port that nobody listens on can be bound twice.

    The protocol is named because asyncio turns off Nagle's delay (40 ms an answer) only where it is.
    """
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def url(host: str, port: int) -> str:
    """The address a client on this machine uses for a server on `host`; wildcard addresses become loopback ones."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
