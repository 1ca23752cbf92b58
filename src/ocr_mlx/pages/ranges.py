"""Page ranges as people write them: `1-3,7`, `5-`, `-3`."""

from __future__ import annotations

import re

from ocr_mlx.errors import PageOutOfRange

_PART = re.compile(r"(?P<first>[0-9]{0,9})(?:\s*(?P<dash>[-\u2013])\s*(?P<last>[0-9]{0,9}))?")
_HINT = "Write ranges such as 1-3,7 or 5- (to the end) or -3 (from the start); pages count from 1."


def parse_page_range(text: str, count: int) -> tuple[int, ...]:
    """Read `text` for a document of `count` pages: indices from 0, in the order asked, each once. Empty means all.

    PageOutOfRange: `text` is no range, or names a page that the document does not have.
    """
    if not text.strip():
        return tuple(range(count))
    indices: dict[int, None] = {}
    for part in text.split(","):
        indices.update(dict.fromkeys(_parse_part(part.strip(), count)))
    return tuple(indices)


def _parse_part(part: str, count: int) -> range:
    match = _PART.fullmatch(part)
    if match is None or not (match["first"] or match["last"]):
        shown = f"{part[:40]!r} is" if part else "An empty part is"
        raise PageOutOfRange(f"{shown} not a page range.", hint=_HINT)
    first = int(match["first"]) if match["first"] else 1
    last = int(match["last"]) if match["last"] else (count if match["dash"] else first)
    if first == 0 or last == 0:
        raise PageOutOfRange("There is no page 0.", hint=_HINT)
    if max(first, int(match["last"] or 0)) > count:
        pages = "1 page" if count == 1 else f"{count} pages"
        raise PageOutOfRange(f"The document has {pages}; {part!r} goes beyond the end.", hint=_HINT)
    if first > last:
        raise PageOutOfRange(f"The range {part!r} is reversed.", hint=f"Write {last}-{first}.")
    return range(first - 1, last)
