"""What a user names as a document: paths, file, http and data addresses."""

from __future__ import annotations

from scripts.fuzzing.parts import chosen, text_of, typed

from ocr_mlx.domain import DataUri, FilePath, RemoteUrl
from ocr_mlx.pages.source import parse_source
from ocr_mlx.server.texts import source_of


def one(data: bytes) -> None:
    """Parse it as the command line does, or as the server does."""
    parse, rest = chosen(data, (parse_source, source_of))
    with typed():
        source = parse(text_of(rest))
        if isinstance(source, FilePath):
            assert "\0" not in str(source.path)
        elif isinstance(source, RemoteUrl):
            assert source.url.lower().startswith(("http://", "https://")) and source.url == source.url.strip()
        else:
            assert isinstance(source, DataUri) and source.data
