from __future__ import annotations

import pytest

from ocr_mlx.pages.media import describe, detect

KNOWN = {
    b"%PDF-1.7\n": "PDF",
    b"junk " * 100 + b"%PDF-1.4": "PDF",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff\xe0" + b"\0" * 50 + b"%PDF-1.4": "JPEG",
    b"GIF89a": "GIF",
    b"BM" + b"\0" * 12 + b"\x28\0\0\0": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF\0\0\0\0WEBPVP8 ": "WEBP",
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "HEIF",
    b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic": "HEIF",
    b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif": "AVIF",
    b"\0\0\0\x1cftypavif\0\0\0\0avifmif1": "AVIF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"P4\n8 8\n": "PPM",
}
STRANGE = {
    b'<?xml version="1.0"?><svg xmlns="">': "SVG",
    b"<!DOCTYPE html><html>": "web page",
    b"<?xml version='1.0'?><feed>": "XML",
    b"PK\x03\x04": "ZIP",
    b"8BPS": "Photoshop",
    b"hello, world": "plain text",
    b"BM is no bitmap": "plain text",
    b"P7 is text": "plain text",
    b"\x00\x01\x02": "unknown",
    b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom": "unknown",
    b" " * 1024 + b"%PDF-1.4": "plain text",
}


@pytest.mark.parametrize("data", KNOWN)
def test_signatures(data: bytes) -> None:
    assert detect(data) == KNOWN[data]


@pytest.mark.parametrize("data", STRANGE)
def test_strangers_are_named(data: bytes) -> None:
    assert detect(data) is None
    assert STRANGE[data] in describe(data)


@pytest.mark.parametrize("size", range(1, 20))
def test_a_start_that_is_cut_off_is_never_a_crash(size: int) -> None:
    for data in KNOWN:
        detect(data[:size])
        describe(data[:size])
