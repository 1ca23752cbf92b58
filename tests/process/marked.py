"""Documents that hold a word wherever a document can hold one, and a search for it in every spelling."""

from __future__ import annotations

import base64
import io
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from tests.unit.pages.conftest import build_pdf

WORD = "Quixotic"
"""What a document says: in its picture, its text layer, its metadata, its name, the password, the prompt."""
PLACE = "Dulcinea"
"""Where a request says that a document is: folders, file names, the path of an address."""
NAME = "Rocinante"
"""What a request calls a thing: a model, a mode, pages."""


def png(word: str = WORD) -> bytes:
    """A line of text, and the word in the pixels' own bytes and in the file's notes."""
    image = Image.new("L", (600, 120), 255)
    ImageDraw.Draw(image).text((30, 30), f"{word} dreams of mills", fill=0, font=ImageFont.load_default(28))
    letters = (word * 80).encode()[:600]
    image.paste(Image.frombytes("L", (600, 1), letters), (0, 119))
    notes = PngInfo()
    notes.add_text("Title", word)
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=notes)
    return out.getvalue()


def pdf(pages: int = 1, word: str = WORD, lock: str = "") -> bytes:
    """Pages with a text layer that says the word, and the word as their title."""
    lines = [f"BT /F 28 Tf 30 60 Td ({word} dreams of mill {number}) Tj ET" for number in range(pages)]
    return build_pdf(*lines, box="0 0 600 120", catalog=f"/Title ({word})", lock=lock)


def documents() -> dict[str, tuple[str, bytes]]:
    """Name to media type and bytes: two that can be read, and some that cannot."""
    return {
        "good.png": ("image/png", png()),
        "good.pdf": ("application/pdf", pdf()),
        "cut.png": ("image/png", png()[:-200]),
        "cut.pdf": ("application/pdf", pdf()[:150]),
        "locked.pdf": ("application/pdf", pdf(lock="open sesame")),
        "plain.txt": ("text/plain", f"{WORD} dreams of mills\n".encode() * 50),
        "empty.png": ("image/png", b""),
        "large.png": ("image/png", png() + WORD.encode() * 140_000),
    }


def spellings(word: str) -> tuple[bytes, ...]:
    """A word as logs, databases, pixels and encoded bodies have it; compared without regard to case."""
    found = {word.encode(), word.encode("utf-16-le"), word.encode().hex().encode()}
    found.add("".join(letter * 3 for letter in word).encode())  # grey pixels as RGB
    return tuple({one.lower() for one in found})


def inside(data: bytes, words: Iterable[str] = (WORD, PLACE, NAME)) -> list[str]:
    """Which of the words are somewhere in these bytes."""
    low = data.lower()
    return [
        word
        for word in words
        if any(one in low for one in spellings(word)) or any(one in data for one in _in_base64(word))
    ]


def _in_base64(word: str) -> Iterator[bytes]:
    """The word at each of its three places in base64, without the characters that depend on its neighbours."""
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + word.encode())
        start, end = (shift * 8 + 5) // 6, (shift + len(word)) * 8 // 6
        yield coded[start:end]


def on_disk(folders: Iterable[Path], words: Iterable[str] = (WORD, PLACE, NAME)) -> dict[str, list[str]]:
    """The files below `folders`, with the words in their names or their bytes. Files that go meanwhile are passed over."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                data = path.read_bytes() if path.is_file() else b""
            except OSError:
                continue
            if words_there := inside(os.fsencode(path.relative_to(folder)) + b"\n" + data, words):
                found[str(path)] = words_there
    return found


class Watch:
    """Looks into folders again and again, until it is told to stop."""

    def __init__(self, *folders: Path) -> None:
        self.found: dict[str, list[str]] = {}
        self.looks = 0
        self._folders = folders
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.found |= on_disk(self._folders)
            self.looks += 1

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def web(files: Mapping[str, tuple[str, bytes]]) -> Iterator[str]:
    """The address, with user and password, of a server that has these documents below `/<PLACE>/`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, data = files.get(self.path.partition("?")[0].rpartition("/")[2], ("", None))
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            with suppress(ConnectionError):  # whoever has seen that it is too large
                self.wfile.write(data or b"")

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://{WORD}:{WORD}@127.0.0.1:{server.server_port}/{PLACE}"
        finally:
            server.shutdown()
            thread.join()
