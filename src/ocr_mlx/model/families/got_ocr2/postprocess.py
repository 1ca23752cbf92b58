r"""From the model's own words to text. Plain reading needs its ends cut; formatted reading is Mathpix markdown.

The original shows formatted text in a browser. What it changes so that the page renders is done here: formulas whose
`\left` and `\right` do not pair lose those commands, formula by formula rather than in the whole text. What it changes so
that the text fits into a script of that page (quotes, dollar signs) is not: those are the document's own. Titles and
sections become markdown headings. Drawings (`tikzpicture`) and scores (`**kern`) stay as they are.
"""

from __future__ import annotations

import re
from typing import Final

from ocr_mlx.model.families.got_ocr2.tokenizer import END, END_OF_TEXT

_VERBATIM: Final = ("**kern", r"\begin{tikzpicture}")
_FORMULA: Final = re.compile(r"((?<!\\)\\\(.*?(?:\\\)|\Z)|(?<!\\)\\\[.*?(?:\\\]|\Z))", re.DOTALL)
_LEFT: Final = re.compile(r"\\left(?![a-zA-Z])")
_RIGHT: Final = re.compile(r"\\right(?![a-zA-Z])")
_SIZED: Final = re.compile(r"\\(?:left|right)(?![a-zA-Z])[ \t]*(?:\.(?!\d))?")
_HEADING: Final = re.compile(r"\\(title|author|section|subsection|subsubsection)\*?[ \t]*\{")
_DEPTH: Final = {"title": "# ", "author": "", "section": "## ", "subsection": "### ", "subsubsection": "#### "}
_ABSTRACT: Final = re.compile(r"\\begin\{abstract\}|\\end\{abstract\}")
_BREAK: Final = re.compile(r"(?:(?<![ \t\n])[ \t\n]+)?\\\\[ \t\n]*")
_BRACE: Final = re.compile(r"\\.|[{}]", re.DOTALL)
_GAP: Final = re.compile(r"\n{3,}")


def plain(raw: str) -> str:
    """The text without the marks that end it and the white space at its ends."""
    text = raw.strip()
    while text.endswith((END, END_OF_TEXT)):
        text = text.removesuffix(END).removesuffix(END_OF_TEXT).rstrip()
    return text


def formatted(raw: str) -> str:
    """Markdown with LaTeX; what is malformed stays as it is."""
    text = plain(raw)
    if any(mark in text for mark in _VERBATIM):
        return text
    text = "".join(_paired(part) for part in _FORMULA.split(text))
    return _GAP.sub("\n\n", _headings(text)).strip()


def _paired(part: str) -> str:
    """Without `\\left` and `\\right` where there is not one for each other; `\\left.` prints nothing, so its dot goes."""
    if len(_LEFT.findall(part)) == len(_RIGHT.findall(part)):
        return part
    return _SIZED.sub("", part)


def _headings(text: str) -> str:
    parts, at, pairs = [], 0, _pairs(text)
    for found in _HEADING.finditer(text):
        end = pairs.get(found.end() - 1)
        if found.start() < at or end is None or "\n\n" in (content := text[found.end() : end].strip()):
            continue  # inside another one, never closed, or closed by another's brace
        parts += [text[at : found.start()], _heading(found[1], content)]
        at = end + 1
    joined = "\n\n".join(part for piece in (*parts, text[at:]) if (part := piece.strip()))
    return _ABSTRACT.sub(lambda mark: "## Abstract\n" if "begin" in mark[0] else "", joined)


def _heading(command: str, content: str) -> str:
    if command == "author":
        return "\n".join(line.strip() for line in _BREAK.split(content))
    words = " ".join(_BREAK.sub(" ", content).split())
    return _DEPTH[command] + words if words else ""


def _pairs(text: str) -> dict[int, int]:
    """Where each opening brace that closes does so; braces behind a backslash are letters."""
    open_, pairs = [], {}
    for found in _BRACE.finditer(text):
        if found[0] == "{":
            open_.append(found.start())
        elif found[0] == "}" and open_:
            pairs[open_.pop()] = found.start()
    return pairs
