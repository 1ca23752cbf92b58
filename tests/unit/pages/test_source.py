from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ocr_mlx.domain import DataUri, FilePath, RemoteUrl
from ocr_mlx.errors import SourceError
from ocr_mlx.pages import source
from ocr_mlx.pages.source import parse_source

PATHS = {
    "page.png": "page.png",
    "a b/c#d?e%20.png": "a b/c#d?e%20.png",
    "notes:2024.png": "notes:2024.png",
    "C3: plan.pdf": "C3: plan.pdf",
    "file:///tmp/a.png": "/tmp/a.png",
    "file:////tmp/a.png": "/tmp/a.png",
    "file://localhost/tmp/a.png": "/tmp/a.png",
    "FILE://LOCALHOST/tmp/a.png": "/tmp/a.png",
    "file:/tmp/a.png": "/tmp/a.png",
    "file:///tmp/a%20b%C3%A9.png": "/tmp/a bé.png",
    "file:///tmp/100%.png": "/tmp/100%.png",
    "file:///tmp/a#1?x.png": "/tmp/a#1?x.png",
    " file:///tmp/a.png\n": "/tmp/a.png",
}


@pytest.mark.parametrize("text", PATHS)
def test_paths(text: str) -> None:
    assert parse_source(text) == FilePath(path=Path(PATHS[text]))


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_source("~/a.png") == FilePath(path=Path("/home/someone/a.png"))


def test_the_home_folder_of_nobody_stays_a_path() -> None:
    assert parse_source("~no-such-user-here/a.png") == FilePath(path=Path("~no-such-user-here/a.png"))


def test_a_file_address_keeps_bytes_that_are_not_utf8() -> None:
    source = parse_source("file:///tmp/%FF.png")
    assert isinstance(source, FilePath)
    assert bytes(source.path) == b"/tmp/\xff.png"


@pytest.mark.parametrize("url", ["http://host/a.pdf", "HTTPS://host:8443/a%20b?x=1#y", "http://[::1]:80/"])
def test_urls_stay_as_they_are(url: str) -> None:
    assert parse_source(f" {url}\n") == RemoteUrl(url=url)


DATA = {
    "data:image/png;base64,aGVsbG8=": ("image/png", b"hello"),
    "data:image/png;base64,aGVsbG8": ("image/png", b"hello"),
    "data:image/png;base64,aGVs\n bG8=\r\n": ("image/png", b"hello"),
    "DATA:Image/PNG;BASE64,aGVsbG8=": ("image/png", b"hello"),
    "data:application/pdf;name=a.pdf;base64,aGVsbG8=": ("application/pdf", b"hello"),
    "data:;base64,aGVsbG8=": ("text/plain", b"hello"),
    "data:,hello%20you%00": ("text/plain", b"hello you\0"),
    "data:image/bmp,%FF%d8": ("image/bmp", b"\xff\xd8"),
    "data:image/png;base64,aGVsbG8%3D": ("image/png", b"hello"),
    "data:image/png;base64,-_-_": ("image/png", b"\xfb\xff\xbf"),
    "data:image/png;base64,+/+/": ("image/png", b"\xfb\xff\xbf"),
}


@pytest.mark.parametrize("text", DATA)
def test_data_uris(text: str) -> None:
    media_type, data = DATA[text]
    assert parse_source(text) == DataUri(media_type=media_type, data=data)


BAD = {
    "": "empty",
    " \n": "empty",
    "ftp://host/a.png": "ftp://",
    "s3://bucket/a.png": "s3://",
    "data:image/png;base64": "comma",
    "data:image/png;base64,": "empty",
    "data:image/png;base64,a": "damaged",
    "data:image/png;base64,a*bc": "damaged",
    "data:image/png;base64,äöü=": "damaged",
    "http://": "malformed",
    "http:host": "malformed",
    "http://ho st/": "malformed",
    "http://host:99999/": "malformed",
    "http://[::1/": "malformed",
    "file://server/share/a.png": "another machine",
    "file://": "no absolute path",
    "file:a.png": "no absolute path",
    "file:///tmp/%00.png": "null",
    "a\0b": "null",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_source_is_a_typed_error_with_advice(text: str) -> None:
    with pytest.raises(SourceError, match=BAD[text]) as caught:
        parse_source(text)
    assert caught.value.hint


@settings(max_examples=150)
@given(st.text(st.characters(), max_size=80))
@example("data:,\ud800")
@example("data:;base64,\ud800")
@example("http://host/\ud800")
@example("data:,%")
@example("file:")
@example("http://[")
def test_any_text_is_a_source_or_a_source_error(text: str) -> None:
    try:
        assert isinstance(parse_source(text), FilePath | RemoteUrl | DataUri)
    except SourceError as error:
        assert str(error)


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=200), st.booleans(), st.booleans(), st.integers(1, 80), st.integers(1, 30))
def test_base64_survives_alphabet_padding_and_wrapping(
    data: bytes, url_safe: bool, padded: bool, width: int, piece: int
) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    text = text if padded else text.rstrip("=")
    wrapped = "\r\n ".join(text[at : at + width] for at in range(0, len(text), width))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "_PIECE", piece)
        assert parse_source(f"data:image/png;base64,{wrapped}") == DataUri(media_type="image/png", data=data)


@pytest.mark.parametrize("piece", [1, 4, 8, 1000])
@pytest.mark.parametrize("body", ["aGVsbG8=aGVs", "aGVsbA==aGVs", "aGVsa"])
def test_damage_is_found_wherever_it_is_cut(piece: int, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_PIECE", piece)
    with pytest.raises(SourceError, match="damaged"):
        parse_source(f"data:;base64,{body}")


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=200))
def test_percent_encoding_survives(data: bytes) -> None:
    assert parse_source(f"data:image/png,{quote(data)}") == DataUri(media_type="image/png", data=data)


@settings(max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=40))
def test_an_encoded_file_address_names_the_same_file(name: str) -> None:
    assert parse_source("file://" + quote(f"/tmp/{name}")) == FilePath(path=Path(f"/tmp/{name}"))
