"""Documents that come as multipart/form-data."""

from __future__ import annotations

import asyncio
import io

import pytest
from fastapi import UploadFile
from fastapi.exceptions import RequestValidationError

from ocr_mlx.errors import SourceTooLarge
from ocr_mlx.server.uploads import bare_name, content, one_of


def upload(data: bytes, name: str = "a.png") -> UploadFile:
    return UploadFile(io.BytesIO(data), filename=name, size=len(data))


def test_either_field_will_do_and_the_own_one_wins() -> None:
    own, other = upload(b"1"), upload(b"2")
    assert one_of(own, other, "file") is own and one_of(None, other, "file") is other


def test_a_missing_file_names_the_routes_own_field() -> None:
    with pytest.raises(RequestValidationError) as caught:
        one_of(None, None, "image")
    assert caught.value.errors()[0]["loc"] == ("body", "image")


def test_the_limit_itself_passes() -> None:
    assert asyncio.run(content(upload(b"x" * 1024), most_mb=1 / 1024)).data == b"x" * 1024
    with pytest.raises(SourceTooLarge):
        asyncio.run(content(upload(b"x" * 1025), most_mb=1 / 1024))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("a b.pdf", "a b.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\docs\\scan.png", "scan.png"),
        ("a\x00b\r\nc", "abc"),
        ("", ""),
        ("日本.png", "日本.png"),
    ],
)
def test_a_name_keeps_no_folder_and_nothing_unprintable(given: str, wanted: str) -> None:
    assert bare_name(given) == wanted
