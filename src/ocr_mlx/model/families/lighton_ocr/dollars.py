r"""Formulas whose dollar signs the model escaped become formulas again: `\$x^2\$` is `$x^2$`, while prices stay.

The rules are those that upstream's client applies to every output (lightonai/LightOnOCR, `postprocess`), written anew:
only backslashes before delimiters go, nothing else is touched, and where a price may be meant nothing happens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

Span = tuple[int, int]

_DELIMITER: Final = re.compile(r"(?<![\\$])\\?\$(?!\$)")
_PROTECTED: Final = re.compile(
    r"""
      ^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*(?P=fence)[ \t]*$|\Z)   # fenced code
    | (?P<ticks>`+)[^`\n]*(?P=ticks)                                            # code in a line
    | ^(?:[ ]{4}|\t)[^\n]*$                                                     # indented code
    | <!--.*?(?:-->|\Z)
    | <(?P<raw>pre|code|script|style)\b[^>]*>.*?(?:</(?P=raw)\s*>|\Z)
    | <[/!?A-Za-z][^<>]*>                                                       # tags
    | (?:https?://|mailto:|www\.)[^\s<>]+
    | ^[ ]{0,3}\[[^\]\n]+\]:[^\n]*$                                             # definitions of links
    | \]\((?:[^()\n]|\([^()\n]*\))*\)                                           # where links and pictures lead
    | (?<!\\)\$\$.*?(?<!\\)\$\$                                                # formulas that are whole
    | \\[\[(]                                                                  # the same, where `_CLOSING` follows
    """,
    re.MULTILINE | re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
_CLOSING: Final = {"\\[": "\\]", "\\(": "\\)"}
"""Looked for by hand: a pattern would run to the text's end from each opening one that is never closed."""
_FORMULA: Final = re.compile(r"(?<![\\$])\$(?!\$)((?:\\.|[^$\\\n])*)(?<!\\)\$(?!\$)")
_NUMBER_FIRST: Final = re.compile(r"[+\-−]?\s*[.,]?\d")
_NUMBER_NEXT: Final = re.compile(r"[ \t]*+[+\-−]?\s*[.,]?\d")
_CURRENCY_CODE: Final = re.compile(r"(?<!\w)[A-Z]{1,3}$")
_ENVIRONMENT: Final = re.compile(r"\s*\\begin\{([A-Za-z*]+)\}.*\\end\{\1\}\s*", re.DOTALL)
_BLANK_LINE: Final = re.compile(r"\n[ \t]*\n")
_BARE_WORD: Final = re.compile(r"[^\W\d_]{2,}")

_PIECE: Final = re.compile(r"\\[A-Za-z]+|\\.|[{}]|[^\\{}]+|\\", re.DOTALL)
_ATOM: Final = re.compile(r"\\(?:[A-Za-z]+|[^\r\n])|\d+(?:\.\d*)?|\.\d+|[^\W\d_]\w*|[-−–—+*/=<>:;,.'!|_^%&()\[\]{}]")
_BRACKET: Final = re.compile(r"\\.|[()\[\]]", re.DOTALL)
_WORDS_IN_FORMULA: Final = re.compile(r"\\text\{[^{}]*\}")


def fix_escaped_dollars(text: str) -> str:
    """The text with the delimiters of its formulas bare."""
    pieces, done = [], 0
    for start, stop in [*_protected(text), (len(text), len(text))]:
        pieces += [_repaired(text[done:start]), text[start:stop]]
        done = stop
    return "".join(pieces)


def _protected(text: str) -> Iterator[Span]:
    """Stretches to leave alone, in order and apart: code, markup, addresses, formulas in good order."""
    found = list(_whole(text))
    found += [match.span() for match in _FORMULA.finditer(text) if is_formula(match[1])]
    end = 0
    for start, stop in sorted(found):
        if stop > end:
            yield max(start, end), stop
            end = stop


def _whole(text: str) -> Iterator[Span]:
    at, unclosed = 0, set()
    while (match := _PROTECTED.search(text, at)) is not None:
        start, stop = match.span()
        closing = _CLOSING.get(match[0])
        if closing is not None:
            found = -1 if closing in unclosed else text.find(closing, stop)
            if found < 0:
                unclosed.add(closing)
                at = start + 1
                continue
            stop = found + len(closing)
        yield start, stop
        at = stop


def _repaired(text: str) -> str:
    marks = list(_DELIMITER.finditer(text))
    pieces, done, i = [], 0, 0
    while i + 1 < len(marks):
        left, right = marks[i], marks[i + 1]
        body = text[left.end() : right.start()]
        escaped = left[0] != "$" or right[0] != "$"
        if escaped and not _doubtful(text, left, right):
            pieces += [text[done : left.start()], "$", body, "$"]
            done = right.end()
            i += 2
        else:
            i += 2 if not escaped and is_formula(body) else 1
    return "".join([*pieces, text[done:]])


def _doubtful(text: str, left: re.Match[str], right: re.Match[str]) -> bool:
    """Whether what stands between the two marks may be something else than a formula."""
    body = text[left.end() : right.start()]
    opened, closed = left[0] != "$", right[0] != "$"
    number = _NUMBER_FIRST.match(body.strip()) is not None
    several_lines = "\n" in body or "\r" in body
    return (
        (several_lines and _ENVIRONMENT.fullmatch(body) is None)
        or _BLANK_LINE.search(body) is not None
        or (opened and _CURRENCY_CODE.search(text, max(0, left.start() - 4), left.start()) is not None)
        or (opened and not closed and number)
        or (number and _NUMBER_NEXT.match(text, right.end()) is not None)
        or not is_formula(body)
    )


def is_formula(body: str) -> bool:
    """Whether the text between two dollar signs reads like a formula rather than like prose or prices."""
    inner = body.strip()
    if not inner or "<td" in inner.lower() or "</" in inner or _BARE_WORD.fullmatch(inner):
        return False
    outline = _outline(inner)
    if outline is None or _ATOM.sub("", outline).strip() or _has_prose(outline):
        return False
    if body != inner and not re.search(r"[\w\\]", inner):
        return False
    return not (len(inner) > 1 and inner[0] in ",;") and _brackets_match(inner)


def _outline(formula: str) -> str | None:
    """The formula with the arguments of its commands emptied; None where braces do not match."""
    kept: list[str] = []
    inside = open_braces = 0
    takes_argument = False
    for piece in _PIECE.findall(formula):
        if piece == "{" and (inside or takes_argument):
            inside += 1
        elif piece == "}" and inside:
            inside -= 1
            if not inside:
                kept.append("{}")
                takes_argument = True
        elif not inside:
            open_braces += (piece == "{") - (piece == "}")
            kept.append(piece)
            takes_argument = piece[0] == "\\" and piece[1:].isalpha() and piece.isascii()
        if open_braces < 0:
            return None
    return None if inside or open_braces else "".join(kept)


def _has_prose(outline: str) -> bool:
    """Whether two words stand side by side of which one is longer than a letter."""
    before = ""
    for atom in _ATOM.findall(outline):
        word = atom if atom[0].isalpha() else ""
        if word and before and len(word) + len(before) > 2:
            return True
        before = word
    return False


def _brackets_match(formula: str) -> bool:
    """Round and square ones alike, as intervals mix them."""
    level = 0
    for bracket in _BRACKET.findall(_WORDS_IN_FORMULA.sub("", formula)):
        level += (bracket in "([") - (bracket in ")]")
        if level < 0:
            return False
    return level == 0
