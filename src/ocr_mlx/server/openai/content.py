"""What is in the messages: documents, words, instructions. Any of the spellings that clients have for them."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ocr_mlx.domain import Source, Upload
from ocr_mlx.errors import InvalidOption, SourceError
from ocr_mlx.pages.source import parse_source
from ocr_mlx.server.openai.schemas import Address, Message, Part
from ocr_mlx.server.uploads import bare_name

MOST_DOCUMENTS = 32
_INSTRUCTING = ("system", "developer")
_TEXTS = ("text", "input_text")
_IMAGES = ("image_url", "input_image")
_FILES = ("file", "input_file")
_SHOWN = 40
_ADDRESS = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]*):")
_HOW = "Send a data: URI of an image or a PDF, or an http(s) address."


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One image or file of a message. `address` as it came; a file's may be bare base64."""

    address: str = field(repr=False)
    is_file: bool = False
    name: str = ""

    def source(self) -> Source:
        """Where its bytes are. Decodes a data URI, so call it off the event loop. Raises SourceError."""
        scheme = _ADDRESS.match(self.address[:_SHOWN])
        kind = scheme[1].lower() if scheme else ""
        if kind in ("data", "http", "https"):
            return parse_source(self.address)
        if self.is_file and not scheme and self.address.strip():
            return Upload(data=_plain_base64(self.address), name=bare_name(self.name))
        what = f"Addresses of the kind {kind}: are not read here." if kind else "An image has no address."
        raise SourceError(what, hint=_HOW)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What messages come to."""

    documents: tuple[Document, ...]
    text: str
    system: str


def asked(messages: Sequence[Message], instructions: str = "") -> Asked:
    """The documents of the last user message that has any, the words of the last user message, all instructions.

    Raises SourceError where there is no document, or too many; InvalidOption for a part that is not known.
    """
    users = [message for message in messages if message.role == "user"]
    systems = [_words(message) for message in messages if message.role in _INSTRUCTING]
    found = next((some for message in reversed(users) if (some := tuple(_documents(message)))), ())
    if not found:
        raise SourceError(
            "There is no image or file in the request.",
            hint='Send one in a user message: {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}.',
        )
    if len(found) > MOST_DOCUMENTS:
        raise SourceError(
            f"There are {len(found)} documents in one message, and {MOST_DOCUMENTS} at most are read.",
            hint="Send several requests, or one PDF.",
        )
    return Asked(
        documents=found,
        text=_words(users[-1]),
        system="\n\n".join(text for text in (instructions.strip(), *systems) if text),
    )


def _words(message: Message) -> str:
    content = message.content or ""
    if isinstance(content, str):
        return content.strip()
    return "\n".join(part.text or "" for part in content if part.type in _TEXTS).strip()


def _documents(message: Message) -> Iterator[Document]:
    for part in message.content if isinstance(message.content, list) else ():
        if part.type in (*_IMAGES, *_FILES):
            yield _document(part)
        elif part.type not in _TEXTS:
            known = ", ".join((*_TEXTS, *_IMAGES, *_FILES))
            raise InvalidOption(f"Parts of type {part.type[:_SHOWN]!r} are not read here.", hint=f"Known are {known}.")


def _document(part: Part) -> Document:
    inner = part.file
    if part.type in _IMAGES:
        address, is_file = _image_address(part.image_url), False
    else:
        address, is_file = (inner.file_data if inner else None) or part.file_data or part.file_url, True
    if address:
        name = (inner.filename if inner else None) or part.filename or ""
        return Document(address=address, is_file=is_file, name=name)
    if part.file_id or (inner and inner.file_id):
        raise SourceError("Files cannot be named by `file_id`: nothing is uploaded beforehand here.", hint=_HOW)
    raise SourceError(f"A part of type {part.type} holds no document.", hint=_HOW)


def _image_address(given: str | Address | None) -> str | None:
    return given.url or given.image_url if isinstance(given, Address) else given


def _plain_base64(text: str) -> bytes:
    try:
        return b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SourceError("The data of a file is damaged.", hint="Send data:application/pdf;base64,...") from error
