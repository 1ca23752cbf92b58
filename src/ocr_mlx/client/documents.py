"""What a caller may give as a document, and how it travels."""

from __future__ import annotations

import base64
import mimetypes
import re
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import IO, TypeAlias

Document: TypeAlias = str | PathLike[str] | bytes | bytearray | memoryview | IO[bytes]
"""A path, an `http(s)://`, `file://` or `data:` address, the bytes of an image or a PDF, or an open binary file.

A path is read here and its bytes are sent, so that the server may be another machine. An address is fetched by the
server: `file://` names a file of its own.
"""
_ADDRESS = re.compile(r"\s*(https?|file|data):", re.IGNORECASE)
_NAMELESS = "document"
_PDF = b"%PDF-"
_HEAD = 1024
"""Where in a file a PDF's mark may stand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bytes:
    """A document that travels with the request. `name` is a bare file name, for messages."""

    data: bytes = field(repr=False)
    name: str

    @property
    def is_pdf(self) -> bool:
        """Whether the bytes are a PDF, whatever the name says."""
        return _PDF in self.data[:_HEAD]

    @property
    def media_type(self) -> str:
        """From the bytes for a PDF, else from the name; the server looks at the bytes itself."""
        guessed = mimetypes.guess_type(self.name)[0] or ""
        return "application/pdf" if self.is_pdf else guessed if guessed.startswith("image/") else "image/png"

    @property
    def uri(self) -> str:
        """As a `data:` URI."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A document that the server fetches."""

    uri: str


def open_document(source: Document) -> Bytes | Address:
    """Read what can be read here. Raises OSError for a file, TypeError for anything that is no document."""
    if isinstance(source, bytes | bytearray | memoryview):
        return _whole(bytes(source), _NAMELESS)
    if isinstance(source, str) and _ADDRESS.match(source[:16]):
        return Address(uri=source.strip())
    if isinstance(source, str | PathLike):
        path = Path(source).expanduser()
        return _whole(path.read_bytes(), path.name)
    return _whole(_content(source), Path(str(getattr(source, "name", "") or _NAMELESS)).name)


def content_of(source: Document) -> Bytes:
    """The same for calls that upload. Raises ValueError for an address."""
    document = open_document(source)
    if isinstance(document, Address):
        raise ValueError("An address cannot be uploaded: give a path, bytes or a file, or use `read`.")
    return document


def _content(file: IO[bytes]) -> bytes:
    if not hasattr(file, "read"):
        raise TypeError(f"A document cannot be of the type {type(file).__name__}: give a path, bytes or a binary file.")
    data = file.read()
    if isinstance(data, str):
        raise TypeError("The file is open as text: open it with mode 'rb'.")
    return bytes(data)


def _whole(data: bytes, name: str) -> Bytes:
    if not data:
        raise ValueError(f"{name} is empty.")
    return Bytes(data=data, name=name.lstrip(".") or _NAMELESS)  # servers refuse hidden files
