"""From words on the command line to sources, and from inputs to the names of their outputs."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ocr_mlx.cli import console
from ocr_mlx.domain import Source, Upload
from ocr_mlx.errors import SourceNotFound
from ocr_mlx.pages.source import parse_source

STDIN = "-"
_ADDRESSES = ("file:", "http:", "https:", "data:")
_LABEL = 100


def expand(words: Iterable[str]) -> list[str]:
    """Put the files that match a pattern in its place, sorted; for shells that do not. A file of that very name wins.

    A pattern that matches nothing stays: `source` refuses it, and only it.
    """
    found: list[str] = []
    for word in words:
        if not _is_pattern(word):
            found.append(word)
            continue
        found += sorted(match for match in glob.glob(word, recursive=True) if Path(match).is_file()) or [word]
    return found


def _is_pattern(word: str) -> bool:
    return not _is_address(word) and glob.has_magic(word) and not os.path.exists(word)


def source(word: str) -> Source:
    """The source that a word names; `-` is everything on standard input. Raises SourceError."""
    if word == STDIN:
        return Upload(data=console.read(), name="standard input")
    if _is_pattern(word):
        raise SourceNotFound(f"No file matches {label(word)}.", hint="Check the pattern.")
    return parse_source(word)


def label(word: str) -> str:
    """How messages call an input."""
    if word == STDIN:
        return "standard input"
    if word.lower().startswith("data:"):
        return "data URI"
    return word if len(word) <= _LABEL else f"{word[:_LABEL]}…"


def output_names(words: Sequence[str], ending: str) -> list[str]:
    """One file name per input: its stem, its whole name where stems clash, a number where names clash."""
    names = [_name(word) for word in words]
    stems = Counter(PurePosixPath(name).stem.lower() for name in names)
    wanted = [name if stems[PurePosixPath(name).stem.lower()] > 1 else PurePosixPath(name).stem for name in names]
    taken: set[str] = set()
    return [_free(name, ending, taken) for name in wanted]


def _free(name: str, ending: str, taken: set[str]) -> str:
    candidate, number = f"{name}.{ending}", 1
    while candidate.lower() in taken:
        number += 1
        candidate = f"{name}-{number}.{ending}"
    taken.add(candidate.lower())
    return candidate


def _name(word: str) -> str:
    if word == STDIN:
        return "stdin"
    if word.lower().startswith("data:"):
        return "data"
    if not _is_address(word):
        return Path(word).name or "page"
    try:
        parts = urlsplit(word)
    except ValueError:
        return "page"
    return PurePosixPath(unquote(parts.path)).name or parts.hostname or "page"


def _is_address(word: str) -> bool:
    return word.lower().startswith(_ADDRESSES)
