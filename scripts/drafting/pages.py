"""Born-digital pages to try drafts on, drawn by hand: real prose, and text layers that are right, or wrong on purpose."""

from __future__ import annotations

import random
import re
import textwrap
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pydoc_data import topics
from typing import Final

from ocr_mlx.domain import Page, Word
from ocr_mlx.pages.load import PageLimits, open_document
from ocr_mlx.pages.pool import PageProcesses

DPI: Final = 150.0
_SCALE: Final = 72.0 / DPI
_FONTS: Final = ("Helvetica", "Times-Roman")
_PAPER: Final = (420.0, 340.0)
"""Width and height in points: a page of this size holds about 20 lines."""
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
Words = list[Word]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a page looks; `size` is the print's, in points."""

    font: str
    size: float
    columns: int
    hyphens: bool


def paragraphs() -> list[str]:
    """English prose that comes with Python."""
    texts = [re.sub(r"\s+", " ", part).strip() for text in topics.topics.values() for part in text.split("\n\n")]
    return [text for text in texts if 200 < len(text) < 700 and text.isascii() and "*" not in text and _is_prose(text)]


def draw_page(rng: random.Random, texts: Sequence[str], *, columns: int = 1, hyphens: bool = False) -> bytes:
    """A PDF of one page of prose, whose text layer is its text."""
    layout = Layout(font=rng.choice(_FONTS), size=rng.choice((9.0, 10.0, 11.0)), columns=columns, hyphens=hyphens)
    width = (_PAPER[0] - 60 - 24 * (columns - 1)) / columns
    lines = _lines(rng, texts, layout, width)
    pitch = 1.3 * layout.size
    many = int((_PAPER[1] - 70) / pitch)
    drawn = []
    for number, line in enumerate(lines[: many * columns]):
        column, row = divmod(number, many)
        x, y = 30 + column * (width + 24), _PAPER[1] - 40 - row * pitch
        drawn.append(f"BT /F {layout.size:g} Tf {x:.1f} {y:.1f} Td {_string(line)} Tj ET")
    return _pdf("\n".join(drawn), font=layout.font)


def spoil(data: bytes, change: Callable[[Words], Words], renderer: PageProcesses) -> bytes:
    """The same page as a picture, with its words, changed, as an invisible layer over it."""
    page = _drawn(data, renderer)
    words = change(list(page.text_layer or ()))
    layer = "\n".join(_invisible(word, page.height) for word in words)
    width, height = page.width * _SCALE, page.height * _SCALE
    content = f"q {width:.3f} 0 0 {height:.3f} 0 0 cm /I Do Q\nBT 3 Tr\n{layer}\nET"
    return _pdf(content, font="Helvetica", paper=(width, height), picture=page)


def words(data: bytes, renderer: PageProcesses) -> Words:
    """The words of a page's text layer."""
    return list(_drawn(data, renderer).text_layer or ())


def wrong_letters(rate: float, rng: random.Random) -> Callable[[Words], Words]:
    """Letters swapped for others, dropped or doubled."""

    def letter(c: str) -> str:
        if rng.random() >= rate:
            return c
        return rng.choice((rng.choice(_LETTERS), "", c + c))

    return lambda words: [
        replace(word, text=text) for word in words if (text := "".join(letter(c) for c in word.text)) or True
    ]


def wrong_words(rate: float, rng: random.Random) -> Callable[[Words], Words]:
    """Words dropped, said twice, or changed with the next one."""

    def change(words: Words) -> Words:
        changed: Words = []
        for word, after in zip(words, [*words[1:], words[-1]], strict=True):
            lot = rng.random() / rate
            if lot >= 1:
                changed.append(word)
            elif lot > 2 / 3:
                changed += [word, word]
            elif lot > 1 / 3:
                changed.append(replace(word, text=after.text))
        return changed

    return change


def shuffled(rng: random.Random) -> Callable[[Words], Words]:
    """Another reading order: the lines in any order."""

    def change(words: Words) -> Words:
        order = {line: rng.random() for line in sorted({round(word.box[3] / 12) for word in words})}
        return sorted(words, key=lambda word: order[round(word.box[3] / 12)])

    return change


def read_across(words: Words) -> Words:
    """Another reading order: line by line across the columns."""
    return sorted(words, key=lambda word: (round(word.box[3] / 10), word.box[0]))


def of_another_page(rng: random.Random, texts: Sequence[str]) -> Callable[[Words], Words]:
    """Words that are not on the page at all, in the places of those that are."""

    def change(words: Words) -> Words:
        other = " ".join(rng.sample(list(texts), 8)).split()
        return [replace(word, text=other[i % len(other)]) for i, word in enumerate(words)]

    return change


def misplaced(words: Words) -> Words:
    """Right words, a line too low and some letters to the right."""
    return [replace(w, box=(w.box[0] + 30, w.box[1] + 27, w.box[2] + 30, w.box[3] + 27)) for w in words]


def ligatures(words: Words) -> Words:
    """`fi` and `fl` as one letter each."""
    return [replace(word, text=word.text.replace("fi", "\ufb01").replace("fl", "\ufb02")) for word in words]


def nothing(words: Words) -> Words:
    """No text layer."""
    return []


def _drawn(data: bytes, renderer: PageProcesses) -> Page:
    with open_document(data, limits=PageLimits(), renderer=renderer) as document:
        return document.page(0, dpi=DPI)


def _is_prose(text: str) -> bool:
    return sum(c.isalpha() or c == " " for c in text) > 0.93 * len(text)


def _lines(rng: random.Random, texts: Sequence[str], layout: Layout, width: float) -> list[str]:
    letters = int(width / (layout.size * (0.52 if layout.font == "Helvetica" else 0.47)))
    lines = [rng.choice(texts).split(". ")[0][: letters - 8].strip(), ""]
    for text in rng.sample(list(texts), 12):
        if layout.hyphens:
            text = " ".join(_parted(rng, word) for word in text.split())
        lines += [line.replace("\x01", "") for line in textwrap.wrap(text, letters, break_on_hyphens=True)]
        lines.append("")
    return lines


def _parted(rng: random.Random, word: str) -> str:
    """A long word with a place where it may be parted at the end of a line, half of the time."""
    return f"{word[:4]}-{word[4:]}" if len(word) > 8 and word.isalpha() and rng.random() < 0.3 else word


def _invisible(word: Word, height: int) -> str:
    left, top, right, bottom = (value * _SCALE for value in word.box)
    size = max(1.0, (bottom - top) * 1.1)
    natural = max(0.1, 0.5 * size * len(word.text))
    y = height * _SCALE - bottom
    place = f"/F {size:.2f} Tf {100 * (right - left) / natural:.1f} Tz 1 0 0 1 {left:.2f} {y:.2f} Tm"
    return f"{place} {_string(word.text + ' ')} Tj"


def _string(text: str) -> str:
    return "<" + text.replace("\ufb01", "\x01").replace("\ufb02", "\x02").encode("latin-1", "replace").hex() + ">"


def _pdf(content: str, *, font: str, paper: tuple[float, float] = _PAPER, picture: Page | None = None) -> bytes:
    encoding = "<< /Type /Encoding /BaseEncoding /WinAnsiEncoding /Differences [1 /fi /fl] >>"
    xobject = "/XObject << /I 6 0 R >>" if picture is not None else ""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [4 0 R] /Count 1 /MediaBox [0 0 %.3f %.3f] >>" % paper,
        f"<< /Type /Font /Subtype /Type1 /BaseFont /{font} /Encoding {encoding} >>".encode(),
        f"<< /Type /Page /Parent 2 0 R /Contents 5 0 R /Resources << /Font << /F 3 0 R >> {xobject} >> >>".encode(),
        _stream("", content.encode()),
    ]
    if picture is not None:
        size = f"/Width {picture.width} /Height {picture.height}"
        kind = f"/Type /XObject /Subtype /Image {size} /ColorSpace /DeviceGray /BitsPerComponent 8"
        objects.append(_stream(kind, picture.image.convert("L").tobytes()))
    out, places = bytearray(b"%PDF-1.7\n"), []
    for number, entry in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, entry)
    xref = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, xref)
    return bytes(out)


def _stream(kind: str, body: bytes) -> bytes:
    packed = zlib.compress(body, 6)
    head = f"<< {kind} /Filter /FlateDecode /Length {len(packed)} >>".encode()
    return head + b"\nstream\n" + packed + b"\nendstream"
