"""The targets of `scripts/fuzz.py`: a module each, with `one(data)`, which lets the program's own errors pass.

`_FACTS` says which packages besides `ocr_mlx` do the parsing, how long inputs may be, and which words they are made of.
Nothing here needs atheris.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

_TARGETS = (
    "adapters",
    "addresses",
    "bin_files",
    "chat",
    "configs",
    "events",
    "frames",
    "images",
    "media",
    "multipart",
    "outputs",
    "page_ranges",
    "pdfs",
    "processors",
    "responses",
    "safetensors_files",
    "settings",
    "sources",
    "texts",
    "tokenizers_files",
)
_FACTS: dict[str, dict[str, Any]] = {
    "adapters": {"words": (b'"r":', b'"lora_alpha":', b'"base_model_name_or_path":', b"1e400", b"true", b"null", b"\\ud800")},
    "images": {"parsers": ("PIL", "pillow_heif"), "longest": 20_000},
    "pdfs": {"longest": 20_000, "words": (b"obj", b"endobj", b"stream", b"/Type", b"/Page", b"/MediaBox", b"xref", b"trailer")},
    "multipart": {"parsers": ("starlette", "fastapi", "python_multipart")},
    "chat": {"parsers": ("fastapi",), "words": (b'"type":', b'"image_url":', b'"text"', b'"data:,x"', b'"url":', b"\\ud800")},
    "responses": {"parsers": ("fastapi",), "words": (b'"input":', b'"input_image"', b'"data:,x"', b'"input_file"')},
    "bin_files": {"parsers": ("pickle", "zipfile"), "longest": 6000},
    "addresses": {"parsers": ("httpx", "idna"), "words": (b"http://", b"https://", b"@", b"[::1]", b"xn--", b"%00")},
    "configs": {"words": (b"null", b"true", b"-1", b"1e400", b"NaN", b"[]", b"{}", b'"x"', b"0", b"1000000000000")},
    "processors": {"words": (b"null", b"true", b"-1", b"1e400", b"NaN", b"[]", b"{}", b'"x"', b"0", b"1000000000000")},
    "texts": {
        "longest": 2000,
        "words": (b"\\[", b"\\]", b"\\(", b"$$", b"\\$", b"```", b"<table>", b"<td", b"</td>", b"![", b"](", b"colspan=64",
                  b"<|ref|>", b"<|/ref|>", b"<|det|>", b"[[1,2,3,4]]", b"\\left", b"\\title{", b"[FOOTNOTE:", b"\n\n", b"* [",
                  b"\x00\xef\xbf\xbd\xc3\x88"),
    },
}  # fmt: skip


def names() -> tuple[str, ...]:
    """Every target."""
    return _TARGETS


def function(name: str) -> Callable[[bytes], None]:
    """What takes one input. Importing it imports what it tests."""
    module: ModuleType = importlib.import_module(f"scripts.fuzzing.{name}")
    one: Callable[[bytes], None] = module.one
    return one


def parsers(name: str) -> tuple[str, ...]:
    """The packages whose branches count."""
    return ("ocr_mlx", *_FACTS.get(name, {}).get("parsers", ()))


def longest(name: str) -> int:
    """Bytes of an input."""
    return int(_FACTS.get(name, {}).get("longest", 4096))


def words(name: str) -> tuple[bytes, ...]:
    """What inputs are often made of."""
    return tuple(_FACTS.get(name, {}).get("words", ()))
