"""Fetch one large file so that a cut connection, or a run that was ended, never starts again from zero."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from ocr_mlx.errors import DownloadFailed

if TYPE_CHECKING:
    import httpx

Tick = Callable[[int], None]
"""Called with the bytes of this file that are here."""
_TRIES: Final = 5
_POLL: Final = 0.5


def fetch_file(
    url: str,
    target: Path,
    *,
    size: int,
    sha256: str,
    headers: Mapping[str, str],
    tick: Tick,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Bring `url` to `target`, going on from `target.incomplete` where there is one.

    Two processes never write at once: the second waits. A cut connection is tried again five times, counted anew after
    each byte. The finished file must have this size and hash. Raises DownloadFailed, or `httpx.HTTPStatusError` and
    `httpx.TransportError` for what the server answers or does not; what has arrived stays for the next time.
    """
    partial = partial_file(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as file, _alone(file, tick, sleep):
        if target.exists():
            partial.unlink(missing_ok=True)
            return
        _complete(url, file, size, headers, tick, sleep)
        file.flush()
        if not _sound(partial, size, sha256):
            partial.unlink()
            raise DownloadFailed(
                f"What arrived for {url} is not what the hub announced.",
                hint="Try again; it starts from the beginning.",
            )
        partial.replace(target)


def partial_file(target: Path) -> Path:
    """Where a file grows until it is whole."""
    return target.with_name(f"{target.name}.incomplete")


@contextmanager
def _alone(file: IO[bytes], tick: Tick, sleep: Callable[[float], None]) -> Iterator[None]:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tick(_length(file))
            sleep(_POLL)
        else:
            break
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _complete(
    url: str, file: IO[bytes], size: int, headers: Mapping[str, str], tick: Tick, sleep: Callable[[float], None]
) -> None:
    import httpx

    failures = 0
    with httpx.Client(follow_redirects=True, timeout=httpx.Timeout(10, read=30)) as client:
        while (here := _length(file)) < size:
            try:
                _stream(client, url, file, here, headers, tick)
            except httpx.TransportError:
                failures = 0 if _length(file) > here else failures + 1
                if failures >= _TRIES:
                    raise
                sleep(failures)
            else:
                failures = 0 if _length(file) > here else failures + 1
                if failures >= _TRIES:
                    raise DownloadFailed(f"The server ends {url} too early.", hint="Try again later.")


def _stream(client: httpx.Client, url: str, file: IO[bytes], here: int, headers: Mapping[str, str], tick: Tick) -> None:
    asked = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
    with client.stream("GET", url, headers=asked) as response:
        response.raise_for_status()
        if here and response.status_code != 206:
            file.truncate(0)  # the server does not resume
            here = 0
        tick(here)
        try:
            for chunk in response.iter_raw():  # as it comes: a wished size would hold back what a cut then loses
                file.write(chunk)
                here += len(chunk)
                tick(here)
        finally:
            file.flush()


def _length(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _sound(path: Path, size: int, sha256: str) -> bool:
    if path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
