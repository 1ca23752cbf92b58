"""`/v1/chat/completions` and the JSON of `/ocr`: fields, parts, data URIs."""

from __future__ import annotations

from scripts.fuzzing import wire
from scripts.fuzzing.parts import chosen

_PATHS = ("/v1/chat/completions", "/ocr", "/models/switch")


def one(data: bytes) -> None:
    """The bytes as a body; or as the content of the one message."""
    (path, whole), rest = chosen(data, [(path, whole) for path in _PATHS for whole in (True, False)])
    if not whole:
        rest = b'{"model": "builtin", "filename": "data:,x", "messages": [{"role": "user", "content": ' + rest + b"}]}"
    wire.post(path, rest, {b"content-type": b"application/json"})
