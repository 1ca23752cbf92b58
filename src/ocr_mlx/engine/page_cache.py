"""Results of pages that may come again: found by what they depend on, bounded, and on disk only where asked for.

Only what would come out the same again is kept: pages that came to their end, read without chance. Results are held as
compressed JSON, so what they take is known to the byte.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from pydantic import TypeAdapter, ValidationError

from ocr_mlx.domain import DecodeParams, PageResult, PageStatus
from ocr_mlx.engine.clock import IdleClock
from ocr_mlx.engine.page_files import MOST_BLOB, PageFiles
from ocr_mlx.engine.page_key import PageKey

KEPT: Final = frozenset({PageStatus.OK, PageStatus.BLANK, PageStatus.LOOP_RECOVERED})
"""Pages that came to their end."""
_ENTRY_BYTES: Final = 320
"""What one entry takes besides its blob: its key, its place, the objects' heads."""
_SWEEP: Final = "page cache"
_SWEEP_SECONDS: Final = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """What a blob holds. The key is in it so that a file under another's name is found out."""

    key: str
    page: PageResult


_BLOB: Final = TypeAdapter(_Kept)


def repeats(params: DecodeParams) -> bool:
    """Whether the same page, read again, would give the same result."""
    return params.temperature <= 0 or params.seed is not None


class PageCache:
    """Thread-safe. `most_bytes` in memory, least recently used goes first; 0 keeps nothing there."""

    def __init__(
        self,
        most_bytes: int = 0,
        *,
        files: PageFiles | None = None,
        clock: IdleClock | None = None,
        precision: str = "",
    ) -> None:
        """`clock` is when the files are swept; `precision` is what the engine's numbers depend on besides the model: it goes
        into every key.
        """
        self.precision = precision
        self._most = most_bytes
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._blobs: OrderedDict[str, bytes] = OrderedDict()
        self._held = 0
        if files is not None:
            self._sweep(files)

    @property
    def is_on(self) -> bool:
        """Whether anything can be kept; without it, no page needs a key."""
        return self._most > 0 or self._files is not None

    @property
    def held(self) -> int:
        """Bytes in memory."""
        with self._lock:
            return self._held

    def get(self, key: PageKey) -> PageResult | None:
        """The result of an earlier run, marked as cached; it took no steps and no time now."""
        blob = self._take(key.whole)
        result = _unpack(blob, key.whole) if blob is not None else None
        if result is None and self._files is not None:
            result = self._read(self._files, key.whole)
        if result is None:
            return None
        return replace(result, cached=True, seconds=0.0, decode_steps=0, drafted=0, accepted=0)

    def put(self, key: PageKey, result: PageResult) -> None:
        """Keep a result, without its place in the document."""
        blob = _pack(key.whole, replace(result, index=0, following=(), cached=False))
        self._hold(key.whole, blob)
        if self._files is not None and len(blob) <= MOST_BLOB:
            self._files.put(key.whole, blob)

    def remember(self, key: PageKey, raw_text: str) -> None:
        """Keep what a model said of these pixels, whole or not, for `earlier`. In memory alone."""
        if raw_text:
            self._hold(_draft(key), zlib.compress(raw_text.encode("utf-8", "replace"), 1))

    def earlier(self, key: PageKey) -> str:
        """What a model last said of these pixels, whatever it was asked; empty where that is not known."""
        blob = self._take(_draft(key))
        return zlib.decompress(blob).decode() if blob is not None else ""

    def close(self) -> None:
        """Forget what is in memory; what is on disk stays for its time."""
        if self._clock is not None:
            self._clock.stop(_SWEEP)
        with self._lock:
            self._blobs.clear()
            self._held = 0

    def _sweep(self, files: PageFiles) -> None:
        files.sweep()
        if self._clock is not None:
            self._clock.start(_SWEEP, min(max(files.ttl, 1.0), _SWEEP_SECONDS), lambda: self._sweep(files))

    def _read(self, files: PageFiles, name: str) -> PageResult | None:
        blob = files.get(name)
        if blob is None:
            return None
        result = _unpack(blob, name)
        if result is None:
            files.remove(name)
        else:
            self._hold(name, blob)
        return result

    def _take(self, name: str) -> bytes | None:
        with self._lock:
            blob = self._blobs.get(name)
            if blob is not None:
                self._blobs.move_to_end(name)
            return blob

    def _hold(self, name: str, blob: bytes) -> None:
        size = len(blob) + _ENTRY_BYTES
        with self._lock:
            self._drop(name)
            if size > self._most:
                return
            self._blobs[name] = blob
            self._held += size
            while self._held > self._most:
                self._drop(next(iter(self._blobs)))

    def _drop(self, name: str) -> None:
        blob = self._blobs.pop(name, None)
        if blob is not None:
            self._held -= len(blob) + _ENTRY_BYTES


def _draft(key: PageKey) -> str:
    return f"draft {key.pixels}"


def _pack(key: str, page: PageResult) -> bytes:
    return zlib.compress(_BLOB.dump_json(_Kept(key=key, page=page)), 1)


def _unpack(blob: bytes, key: str) -> PageResult | None:
    """None for what nobody packed under this key."""
    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(blob, 8 * MOST_BLOB)
        kept = _BLOB.validate_json(data) if unpacking.eof else None
    except (zlib.error, ValidationError):
        return None
    return kept.page if kept is not None and kept.key == key and kept.page.status in KEPT else None
