"""Small documents made on the spot, and one warm PDF process for all tests of this folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from ocr_mlx.pages.load import Document, PageLimits, open_document
from ocr_mlx.pages.pool import PageProcesses

_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
_PERMISSIONS = (-4).to_bytes(4, "little", signed=True)
_DOCUMENT_ID = b"0123456789abcdef"


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out = bytearray()
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


class _Lock:
    """The PDF standard's oldest encryption: 40 bits, revision 2."""

    def __init__(self, password: str) -> None:
        padded = (password.encode() + _PADDING)[:32]
        self.owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
        self.key = hashlib.md5(padded + self.owner + _PERMISSIONS + _DOCUMENT_ID).digest()[:5]

    def stream(self, number: int, data: bytes) -> bytes:
        return _rc4(hashlib.md5(self.key + number.to_bytes(3, "little") + b"\0\0").digest()[:10], data)

    def dictionary(self) -> bytes:
        user = _rc4(self.key, _PADDING)
        return b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (
            self.owner.hex().encode(),
            user.hex().encode(),
        )


def build_pdf(
    *contents: str,
    box: str = "0 0 200 100",
    page: str = "",
    catalog: str = "",
    more: tuple[str, ...] = (),
    lock: str = "",
) -> bytes:
    """A PDF with one page per content stream. `page` and `catalog` are put into those dictionaries; `more` are further
    objects, numbered from 4. Font /F is Helvetica."""
    keys = _Lock(lock) if lock else None
    first = 4 + len(more)
    kids = " ".join(f"{first + 2 * i} 0 R" for i in range(len(contents)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>".encode(),
        f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} /MediaBox [{box}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        *(entry.encode() for entry in more),
    ]
    for index, content in enumerate(contents):
        number = first + 2 * index + 1
        stream = keys.stream(number, content.encode()) if keys else content.encode()
        body = f"/Type /Page /Parent 2 0 R /Contents {number} 0 R /Resources << /Font << /F 3 0 R >> >>"
        objects.append(f"<< {body} {page} >>".encode())
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    return _assemble(objects, keys)


def _assemble(objects: list[bytes], keys: _Lock | None) -> bytes:
    out = bytearray(b"%PDF-1.7\n")
    places = []
    for number, entry in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, entry)
    xref = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    encrypt = b"/Encrypt %s /ID [<%s> <%s>]" % (keys.dictionary(), *[_DOCUMENT_ID.hex().encode()] * 2) if keys else b""
    out += b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, encrypt, xref)
    return bytes(out)


def save(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The image as a file of that kind."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def make_pdf() -> Callable[..., bytes]:
    return build_pdf


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    return save


@pytest.fixture(scope="session")
def renderer() -> Iterator[PageProcesses]:
    with PageProcesses() as shared:
        yield shared


@pytest.fixture
def opened(renderer: PageProcesses) -> Iterator[Callable[..., Document]]:
    """Open a document that is closed after the test. Keywords are PageLimits, `page_range`, `password`."""
    documents: list[Document] = []

    def open_one(data: bytes, page_range: str = "", password: str | None = None, **limits: Any) -> Document:
        document = open_document(
            data, limits=PageLimits(**limits), renderer=renderer, page_range=page_range, password=password
        )
        documents.append(document)
        return document

    yield open_one
    for document in documents:
        document.close()
