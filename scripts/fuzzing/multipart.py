"""Forms: the body and its boundary, through the routes that take them."""

from __future__ import annotations

from scripts.fuzzing import wire
from scripts.fuzzing.parts import chosen

_PATHS = ("/ocr", "/ocr/pdf", "/api/inference", "/api/ocr", "/llm")


def one(data: bytes) -> None:
    """The first line is the content type behind `multipart/form-data;`, or the boundary x where it is empty."""
    path, rest = chosen(data, _PATHS)
    line, _, body = rest.partition(b"\n")
    kind = b"multipart/form-data;" + (line.replace(b"\r", b"").replace(b"\0", b"") or b" boundary=x")
    wire.post(path, body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"), {b"content-type": kind})
