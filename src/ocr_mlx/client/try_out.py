"""A look at a running server from the command line, with the options that `test_ocr.py` has."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ocr_mlx.client.nunoocr_client import MODEL, DeepSeekOCRClient, DeepSeekOCRError

_DEFAULT_URL = "http://localhost:8765"
_TIMEOUT = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say, the health check where they say nothing: 0, or 1 when something fails."""
    options = _options(arguments)
    client = DeepSeekOCRClient(options.url, options.api_key, options.timeout, model=options.model)
    work = [(name, file, act) for name, file, act in _work(client, options) if file]
    if options.health_check or not work:
        if not _health(client):
            return 1
    return 0 if all([_done(file, act) for _, file, act in work]) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ocr_mlx.client", description="Try a running OCR server.")
    parser.add_argument("file", nargs="?", help="an image or a PDF: print its text")
    parser.add_argument("--url", default=_DEFAULT_URL, help="address of the server (%(default)s)")
    parser.add_argument("--api-key", help="token, where the server wants one")
    parser.add_argument("--model", default=MODEL, help="what to read with (%(default)s)")
    parser.add_argument("--timeout", type=float, default=_TIMEOUT, help="seconds to wait for an answer (%(default)s)")
    parser.add_argument("--health-check", action="store_true", help="only say whether the server answers")
    parser.add_argument("--extract-text", metavar="FILE", help="print the text")
    parser.add_argument("--extract-data", metavar="FILE", help="print the fields of a prescription as JSON")
    parser.add_argument("--multi-page", metavar="FILE", help="print the text page by page")
    return parser.parse_args(arguments)


def _work(client: DeepSeekOCRClient, options: argparse.Namespace) -> list[tuple[str, str | None, Callable[[str], str]]]:
    return [
        ("text", options.file or options.extract_text, lambda file: str(client.extract_text(file)["text"])),
        ("data", options.extract_data, lambda file: _json(client.extract_prescription_data(file))),
        ("pages", options.multi_page, lambda file: _pages(client.extract_text_multi_page(file))),
    ]


def _health(client: DeepSeekOCRClient) -> bool:
    healthy = client.health_check()
    _say(f"{client.base_url} answers." if healthy else f"No server answers at {client.base_url}.", failed=not healthy)
    return healthy


def _done(file: str, act: Callable[[str], str]) -> bool:
    try:
        _say(act(file))
    except (DeepSeekOCRError, OSError, ValueError) as error:
        _say(f"{file}: {error}", failed=True)
        return False
    return True


def _json(found: dict[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False, indent=2)


def _pages(found: dict[str, Any]) -> str:
    heads = ((f"--- Page {page['page_number']} of {found['total_pages']} ---", page["text"]) for page in found["pages"])
    return "\n\n".join(f"{head}\n{text}" for head, text in heads)


def _say(text: str, *, failed: bool = False) -> None:
    (sys.stderr if failed else sys.stdout).write(text + "\n")
