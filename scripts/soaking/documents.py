"""What the soak sends: pages that can be read, made anew for every run, and documents that cannot, each bad in its own way."""

from __future__ import annotations

import http.server
import io
import random
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

WORDS = "harbour lights shine over quiet water while the last boats return to shore this evening again".split()
_WIDE, _LINE, _MARGIN, _SIZE = 520, 34, 16, 22
_BOMB_SIDE = 30_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A file with `pages` pages. `bad` are the codes with which it may fail; none: it can be read."""

    name: str
    data: bytes = field(repr=False)
    pages: int = 1
    bad: tuple[str, ...] = ()

    @property
    def is_pdf(self) -> bool:
        """By its name."""
        return self.name.endswith(".pdf")


def readable(seed: int) -> list[Document]:
    """Pictures of several formats and PDFs of 1 to 30 pages, with text and without, one blank."""
    dice = random.Random(seed)
    scans = [_picture(dice, 1 + number % 3) for number in range(30)]
    return [
        Document(name="two-lines.png", data=_encoded(_picture(dice, 2), "PNG")),
        Document(name="six-lines.jpg", data=_encoded(_picture(dice, 6), "JPEG", quality=90)),
        Document(name="large.webp", data=_encoded(_picture(dice, 3).resize((1560, 402)), "WEBP", lossless=True)),
        Document(name="blank.png", data=_encoded(Image.new("L", (400, 300), 255), "PNG")),
        Document(name="three-frames.tif", data=_several(scans[:3], "TIFF"), pages=3),
        Document(name="scan.pdf", data=_several(scans[:4], "PDF"), pages=4),
        Document(name="printed.pdf", data=printed_pdf([_lines(dice, 3) for _ in range(2)]), pages=2),
        Document(name="long.pdf", data=_several(scans, "PDF"), pages=30),
    ]


def broken(seed: int) -> list[Document]:
    """Documents that must be refused, with the codes that say why."""
    whole = _encoded(_picture(random.Random(seed), 4), "PNG")
    printed = printed_pdf([["nothing"]])
    return [
        Document(name="empty.png", data=b"", bad=("unsupported_media", "source_error")),
        Document(name="notes.txt", data=b"No picture at all.\n", bad=("unsupported_media",)),
        Document(name="page.html", data=b"<!doctype html><p>Please log in</p>", bad=("unsupported_media",)),
        Document(name="cut.png", data=whole[: len(whole) // 2], bad=("bad_image",)),
        Document(name="header-only.jpg", data=b"\xff\xd8\xff\xe0" + bytes(40), bad=("bad_image",)),
        Document(name="bomb.png", data=_png_bomb(_BOMB_SIDE), bad=("source_too_large",)),
        Document(name="words-bomb.png", data=_metadata_bomb(), bad=("source_too_large",)),
        Document(name="liar.tif", data=_lying_tiff(), bad=("source_too_large", "bad_image")),
        Document(name="cut.pdf", data=b"%PDF-1.7\nand no more", bad=("bad_pdf",)),
        Document(
            name="billions.pdf", data=printed_pdf([["far"]], side=2_000_000_000), bad=("source_too_large", "bad_pdf")
        ),
        Document(name="no-pages.pdf", data=printed.replace(b"/Kids", b"/Nope"), bad=("bad_pdf", "page_out_of_range")),
    ]


def _lines(dice: random.Random, count: int) -> list[str]:
    return [" ".join(dice.sample(WORDS, 6)) for _ in range(count)]


def _picture(dice: random.Random, lines: int) -> Image.Image:
    face = ImageFont.load_default(_SIZE)
    page = Image.new("L", (_WIDE, 2 * _MARGIN + _LINE * lines), 255)
    for row, text in enumerate(_lines(dice, lines)):
        ImageDraw.Draw(page).text((_MARGIN, _MARGIN + _LINE * row), text, fill=0, font=face)
    return page


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _several(images: Sequence[Image.Image], kind: str) -> bytes:
    never = {"creationDate": time.gmtime(0), "modDate": time.gmtime(0)} if kind == "PDF" else {}
    return _encoded(images[0], kind, save_all=True, append_images=images[1:], resolution=100.0, **never)


def printed_pdf(pages: Sequence[Sequence[str]], side: int = 360) -> bytes:
    """A PDF that was never on paper: its words can be had without reading. `side` of its square pages in points."""
    kids = " ".join(f"{3 + 2 * number} 0 R" for number in range(len(pages)))
    face = "/Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>"]
    for number, lines in enumerate(pages):
        drawn = "\n".join(f"BT /F 14 Tf 20 {320 - 24 * row} Td ({line}) Tj ET" for row, line in enumerate(lines))
        box = f"/MediaBox [0 0 {side} {side}] /Resources << {face} >> /Contents {4 + 2 * number} 0 R"
        objects.append(f"<< /Type /Page /Parent 2 0 R {box} >>")
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    out, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return out + f"{head}trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n".encode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_bomb(side: int) -> bytes:
    """A sound PNG of a hundred kilobytes that is `side` by `side` pixels."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _metadata_bomb() -> bytes:
    """A picture of nothing whose comment unpacks to forty megabytes."""
    info = PngInfo()
    info.add_text("Comment", "0" * 40_000_000, zip=True)
    return _encoded(Image.new("L", (8, 8), 255), "PNG", pnginfo=info)


def _lying_tiff() -> bytes:
    """A TIFF that claims 200,000 by 200,000 pixels and has none."""
    tags = [(256, 200_000), (257, 200_000), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 200_000), (279, 16)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + struct.pack("<H", len(tags)) + entries + bytes(4)


class Shelf:
    """The documents as files in `folder`, and on a web server of this machine. A context."""

    def __init__(self, folder: Path, documents: Sequence[Document]) -> None:
        self._folder = folder
        held = {f"/{document.name}": document.data for document in documents}
        for document in documents:
            (folder / document.name).write_bytes(document.data)

        class Handler(http.server.BaseHTTPRequestHandler):
            """`/moved/NAME` leads to NAME, `/round` to itself, and what is not there is 404."""

            def do_GET(self) -> None:
                moved = self.path.removeprefix("/moved") if self.path.startswith("/moved/") else ""
                data = held.get(self.path)
                self.send_response(302 if moved or self.path == "/round" else 404 if data is None else 200)
                if moved or self.path == "/round":
                    self.send_header("Location", moved or self.path)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="shelf", daemon=True)

    def file(self, name: str) -> str:
        """Where it lies, as an address."""
        return (self._folder / name).as_uri()

    def web(self, name: str) -> str:
        """Where it is on the web server."""
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
