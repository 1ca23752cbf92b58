"""One line of text from a user to a typed Source. Nothing is opened here."""

from __future__ import annotations

import base64
import binascii
import re
import string
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from ocr_mlx.domain import DataUri, FilePath, RemoteUrl, Source
from ocr_mlx.errors import SourceError

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]*):")
_HINT = "Give a path, or a file://, http://, https:// or data: address."
_DEFAULT_MEDIA_TYPE = "text/plain"
_WHITESPACE = string.whitespace.encode()
_PADDING = "=" + string.whitespace
_PIECE = 1 << 18
"""Characters of base64 that are decoded at a time."""
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")


def parse_source(text: str) -> Source:
    """Read a bare path, or a `file:`, `http:`, `https:` or `data:` address of any media type.

    SourceError: empty, an unknown scheme, a malformed address, or a `data:` URI that does not decode.
    """
    if not text.strip():
        raise SourceError("The source is empty.", hint=_HINT)
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    if scheme == "data":
        return _parse_data(text.strip())
    if scheme == "file":
        return _parse_file(text.strip())
    if scheme in ("http", "https"):
        return _parse_url(text.strip())
    if match and text.startswith("//", match.end()):
        raise SourceError(f"Addresses of the kind {scheme}:// are not supported.", hint=_HINT)
    return _path(text)


def _path(text: str) -> FilePath:
    if "\0" in text:
        raise SourceError("A path cannot contain a null character.", hint=_HINT)
    try:
        return FilePath(path=Path(text).expanduser())
    except RuntimeError:  # `~name` of a user that does not exist
        return FilePath(path=Path(text))


def _parse_file(text: str) -> FilePath:
    # `#` and `?` stay part of the path: callers often send file:// and a path without encoding it.
    rest = text[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise SourceError(
                f"The file address names another machine ({host[:80]!r}).",
                hint="Write file:///absolute/path, with three slashes.",
            )
        rest = slash + path
    decoded = unquote(rest, errors="surrogateescape")
    if not decoded.startswith("/"):
        raise SourceError("The file address has no absolute path.", hint="Write file:///absolute/path.")
    decoded = "/" + decoded.lstrip("/")
    if "\0" in decoded:
        raise SourceError("A path cannot contain a null character.", hint=_HINT)
    return FilePath(path=Path(decoded))


def _parse_url(text: str) -> RemoteUrl:
    try:
        parts = urlsplit(text)
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any(char.isspace() or char < " " for char in text):
        raise SourceError("The address is malformed.", hint="Write http://host/path or https://host/path.")
    return RemoteUrl(url=text)


def _parse_data(text: str) -> DataUri:
    comma = text.find(",")
    if comma < 0:
        raise SourceError("The data URI has no comma before its data.", hint="Write data:image/png;base64,…")
    media_type, *parameters = (part.strip() for part in text[len("data:") : comma].split(";"))
    is_base64 = any(parameter.lower() == "base64" for parameter in parameters)
    try:
        data = _decode_base64(text, comma + 1) if is_base64 else unquote_to_bytes(text[comma + 1 :])
    except (binascii.Error, ValueError) as error:
        raise SourceError(
            "The data of the data URI is damaged.", hint="Encode the file again, and send it all."
        ) from error
    if not data:
        raise SourceError("The data URI is empty.", hint="Put the document's bytes behind the comma.")
    return DataUri(media_type=media_type.lower() or _DEFAULT_MEDIA_TYPE, data=data)


def _decode_base64(text: str, start: int) -> bytes:
    """Both alphabets, whitespace anywhere, padding optional, and percent-encoded characters.

    Piece by piece: one call for a hundred megabytes would keep every other thread waiting until it is done.
    """
    if text.find("%", start) >= 0:
        text, start = unquote(text[start:], errors="replace"), 0
    text = text.rstrip(_PADDING)
    pieces, rest = [], b""
    for at in range(start, len(text), _PIECE):
        plain = rest + text[at : at + _PIECE].encode("ascii").translate(_STANDARD_ALPHABET, _WHITESPACE)
        if b"=" in plain:
            raise ValueError("padding before the end")
        whole = len(plain) - len(plain) % 4
        pieces.append(base64.b64decode(plain[:whole], validate=True))
        rest = plain[whole:]
    return b"".join(pieces) + base64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True)
