"""What bytes are, by their signature. Names and declared media types are never asked."""

from __future__ import annotations

from typing import Final, Literal

Kind = Literal["PDF", "PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM", "HEIF", "AVIF"]
SUPPORTED: Final = "PDF, PNG, JPEG, WebP, TIFF, GIF, BMP, HEIC, AVIF, JPEG 2000 and PNM (PBM, PGM, PPM)"

_NAMES: Final[dict[Kind, str]] = {"JPEG2000": "JPEG 2000", "WEBP": "WebP", "PPM": "PNM", "HEIF": "HEIC"}
_SIGNATURES: Final[tuple[tuple[bytes, Kind], ...]] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
_BMP_HEADER_SIZES: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_HEIF_BRANDS: Final = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
_PDF_HEADER_WITHIN: Final = 1024

_STRANGERS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\x01\0", "an icon"),
    (b"{\\rtf", "an RTF document"),
    (b"%!PS", "a PostScript document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
)


def detect(data: bytes) -> Kind | None:
    """The kind of document, or None where it cannot be read. An image's signature at the start wins over a PDF's."""
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if data[4:8] == b"ftyp":
        return _detect_heif(data)
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3] in b" \t\r\n#" and len(data) > 2:
        return "PPM"
    return "PDF" if b"%PDF" in data[:_PDF_HEADER_WITHIN] else None


def name(kind: Kind) -> str:
    """What people call it."""
    return _NAMES.get(kind, kind)


def repair(kind: Kind) -> str:
    """What to do about a damaged one."""
    if kind == "PDF":
        return "Open it in another program and save it again, or send the pages as images."
    return "Save, scan or download it again."


def _detect_heif(data: bytes) -> Kind | None:
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, size, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


def describe(data: bytes) -> str:
    """What unreadable bytes look like, for the error message."""
    for signature, name in _STRANGERS:
        if data.startswith(signature):
            return name
    start = data[:1024].lower()
    if b"<svg" in start:
        return "an SVG drawing"
    if b"<html" in start or b"<!doctype html" in start:
        return "a web page, perhaps an error or login page"
    if start.lstrip().startswith((b"<?xml", b"<")):
        return "an XML document"
    return "plain text" if _is_text(data[:1024]) else "of an unknown kind"


def _is_text(start: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in start)
