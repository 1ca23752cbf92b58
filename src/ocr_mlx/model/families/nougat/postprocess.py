"""From the model's own words to markdown, by upstream's rules and in upstream's order.

Two differences from upstream, both on purpose. Upstream ends a page with a space when its last word is in nltk's word
list, and always where that list is not installed; here it is never installed. And two patterns whose matching time
explodes on long runs of white space are replaced by scans that match the same texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ocr_mlx.model.families.nougat.repetition import remove_runaway_references, truncate_repetitions

_Rule = tuple[re.Pattern[str], str]
_LONG_TITLE: Final = (re.compile(r"(?:\n|^)#+ \d*\W? ?(.{100,})"), r"\n\1")
_EMPTY_HEADING: Final = (re.compile(r"^#+ (?:[\d+\.]+|[ixv\.]+)?\s*(?:$|\n\s*)", re.MULTILINE), "")
_REFERENCES: Final[tuple[_Rule, ...]] = (
    (re.compile(r"^\* \[\d+\](\s?[A-W]\.+\s?){10,}.*$", re.MULTILINE), ""),
    (re.compile(r"^(\* \[\d+\])\[\](.*)$", re.MULTILINE), r"\1\2"),
    (re.compile(r"(^\w\n\n|\n\n\w$)"), ""),
)
_ITALIC_MATH: Final[tuple[_Rule, ...]] = (
    (re.compile(r"([\s.,()])_([a-zA-Z0-9])__([a-zA-Z0-9]){1,3}_([\s.,:()])"), r"\1\(\2_{\3}\)\4"),
    (re.compile(r"([\s.,\d])_([a-zA-Z0-9])_([\s.,\d;])"), r"\1\(\2\)\3"),
)
_FOOTNOTES: Final[tuple[_Rule, ...]] = (
    (re.compile(r"(\nFootnote .*?:) (?:footnotetext|thanks):\W*(.*(?:\n\n|$))"), r"\1 \2"),
)
_END_OF_NOTE: Final = "[ENDFOOTNOTE]"
_NOTE: Final = re.compile(r"\[FOOTNOTE:.[^\]]*+\](?:(?!\[ENDFOOTNOTE\]).)*+\[ENDFOOTNOTE\]")
_LEFTOVERS: Final[tuple[_Rule, ...]] = (
    (re.compile(r"(\*\*S\. A\. B\.\*\*\n+){2,}"), ""),
    (re.compile(r"^#+( [\[\d\w])?$", re.MULTILINE), ""),
    (re.compile(r"^\.\s*$", re.MULTILINE), ""),
    (re.compile(r"\n{3,}"), "\n\n"),
)
_EQUATION_TAGS: Final[tuple[_Rule, ...]] = (
    (re.compile(r"^\(([\d.]+[a-zA-Z]?)\) \\\[(.+?)\\\]$", re.MULTILINE), r"\[\2 \\tag{\1}\]"),
    (re.compile(r"^\\\[(.+?)\\\] \(([\d.]+[a-zA-Z]?)\)$", re.MULTILINE), r"\[\1 \\tag{\2}\]"),
    (re.compile(r"^\\\[(.+?)\\\] \(([\d.]+[a-zA-Z]?)\) (\\\[.+?\\\])$", re.MULTILINE), r"\[\1 \\tag{\2}\] \3"),
)
_MARKUP: Final[tuple[_Rule, ...]] = (
    (re.compile(r"\\mbox{ ?\\boldmath\$(.*?)\$}"), r"\\mathbf{\1}"),
    (
        re.compile(r"((?:http|ftp|https)://(?:[\w_-]+(?:(?:\.[\w_-]+)+))(?:[\w.,@?^=%&:/~+#-]*[\w@?^=%&/~+#-]))"),
        r"[\1](\1)",
    ),
)
_TABULAR: Final = re.compile(r"\\begin{tabular}{[clr ]{2,}}([^\\]*)(?:\\\\)? \\end{tabular}")
_BEFORE_TABULAR: Final = (re.compile(r"(^.+)\\begin{tab", re.MULTILINE), r"\1\n\\begin{tab")
_INNER_BULLET: Final = re.compile(r". ([-*]) ")
_NUMERAL: Final = re.compile(r"[\dixv]+(?:\.[\dixv])*", re.IGNORECASE)
_FENCE: Final = "```"


def clean_page(text: str, *, markdown: bool = True) -> str:
    """One page's text as upstream leaves it, white space at both ends included; `markdown` adapts it to renderers."""
    text = _apply((_LONG_TITLE,), text).strip()
    text = _apply((_EMPTY_HEADING,), text.replace("\n* [leftmargin=*]\n", "\n"))
    text = truncate_repetitions(_without_last_title(text))
    text = remove_runaway_references(text)
    text = _apply((*_REFERENCES, *_ITALIC_MATH, *_FOOTNOTES), text)
    text = _with_ends(split_list_lines(_without_notes(text)))
    text = correct_tables(text).replace("\\begin{array}[]{", "\\begin{array}{")
    text = _apply(_LEFTOVERS, _TABULAR.sub(_unless_empty, text))
    return adapt_markdown(text) if markdown else text


def adapt_markdown(text: str) -> str:
    """Equation numbers become tags, addresses links, bold commands common ones, fences lines of their own."""
    text = _apply(_EQUATION_TAGS, text).replace(r"\. ", ". ")
    text = text.replace(r"\bm{", r"\mathbf{").replace(r"{\\bm ", r"\mathbf{")
    return _fences_on_lines(_apply(_MARKUP, text))


def split_list_lines(text: str) -> str:
    """List items that follow each other on one line get lines of their own, indented by the depth of their numbers."""
    lines = text.split("\n")
    last = len(lines) - 1
    return "\n".join(_split_items(line, number == 0, number == last) for number, line in enumerate(lines))


def correct_tables(text: str) -> str:
    """Drop lines that are runaway tables, and put LaTeX tables on lines of their own."""
    for line in text.split("\n"):
        if line.count("\\begin{tabular}") > 15 or line.count("\\multicolumn") > 60 or line.count("&") > 400:
            text = text.replace(line, "")
    text = text.replace("\\begin{table} \\begin{tabular}", "\\begin{table}\n\\begin{tabular}")
    text = text.replace("\\end{tabular} \\end{table}", "\\end{tabular}\n\\end{table}")
    text = text.replace("\\end{table} Tab", "\\end{table}\nTab")
    text = _apply((_BEFORE_TABULAR,), text)
    text = text.replace(r"\begin{tabular}{l l}  & \\ \end{tabular}", "")
    return text.replace("\\begin{tabular}{}\n\n\\end{tabular}", "")


def _apply(rules: Iterable[_Rule], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _without_notes(text: str) -> str:
    """Line by line, and in each no further than to the last end of a note: beginnings without an end cost nothing then."""
    parted = (line.rpartition(_END_OF_NOTE) for line in text.split("\n"))
    return "\n".join(_NOTE.sub("", before + end) + rest for before, end, rest in parted)


def _without_last_title(text: str) -> str:
    *before, last = text.split("\n")
    return "\n".join(before) if before and last.startswith("#") and last.lstrip("#").startswith(" ") else text


def _with_ends(text: str) -> str:
    """White space at the ends so that pages can simply be strung together."""
    if text.endswith((".", "}")):
        text += "\n\n"
    if re.match(r"[A-Z0-9,;:]$", text):
        return text + " "
    if text.startswith(("#", "**", "\\begin")):
        return "\n\n" + text
    if text.split("\n")[-1].startswith(("#", "Figure", "Table")):
        return text + "\n\n"
    return text + " "


def _split_items(line: str, first: bool, last: bool) -> str:
    inner = _INNER_BULLET.search(line)
    if not inner or line[0] not in "-*":
        return line
    bullet = f"{inner[1]} "
    parts = []
    for index, item in enumerate(part.strip() for part in line.split(bullet)[1:]):
        numeral, _, rest = item.partition(" ")
        if rest:
            depth = numeral.count(".") if _NUMERAL.fullmatch(numeral) else 0
            own = bullet if index or first else f"{line[0]} "
            parts.append(("\n" if index else "") + "\t" * depth + own + item)
    return "".join(parts) + ("\n" if last else "")


def _unless_empty(tabular: re.Match[str]) -> str:
    """A tabular whose cells hold nothing but column marks, in one row, goes."""
    return tabular[0] if tabular[1].strip().strip("& ") else ""


def _fences_on_lines(text: str) -> str:
    done, at = [], 0
    while (opening := text.find(_FENCE, at)) >= 0:
        start = opening + len(_FENCE)
        content = start + len(text[start:]) - len(text[start:].lstrip())
        closing = text.find(_FENCE, content + 1)
        if closing < 0 and content > start and text.startswith(_FENCE, content):
            content, closing = content - 1, content
        if closing < 0:
            done.append(text[at : opening + 1])
            at = opening + 1
            continue
        inside = text[content:closing]
        done.append(f"{text[at:opening]}{_FENCE}\n{inside.rstrip() or inside}\n{_FENCE}")
        at = closing + len(_FENCE)
    return "".join(done) + text[at:]
