"""The HTML-like markup that QARI 0.3 writes, as a tree.

A model's markup is not a browser's: tags stay open, close twice or break off. Only tags that are known here are markup;
whatever else stands between angle brackets is the page's own text, and no text is dropped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

HEADINGS: Final = ("h1", "h2", "h3", "h4", "h5", "h6")
SECTIONS: Final = (
    *("html", "head", "body", "header", "footer", "main", "nav", "section", "article", "aside", "center", "title"),
    *("figure", "figcaption", "caption", "address", "form", "fieldset", "legend", "details", "summary", "dl"),
)
GROUPS: Final = ("thead", "tbody", "tfoot")
CELLS: Final = ("td", "th")
LISTS: Final = ("ul", "ol")
INLINE: Final = (
    *("b", "strong", "i", "em", "u", "ins", "s", "del", "strike", "sup", "sub", "a", "span", "font", "small", "big"),
    *("mark", "code", "kbd", "tt", "cite", "q", "abbr", "bdi", "bdo", "time", "label"),
)
EMPTY: Final = ("br", "hr", "img", "input", "col", "wbr", "meta", "link")
TAGS: Final = (
    *(*HEADINGS, *SECTIONS, *GROUPS, *CELLS, *LISTS, *INLINE, *EMPTY),
    *("div", "p", "pre", "blockquote", "table", "colgroup", "tr", "li", "dt", "dd"),
)
_DEEPEST: Final = 48
"""Tags nested deeper than this are ignored, their text is not."""
_LEAVES: Final = ("p", *HEADINGS)
_WALLS: Final = (*CELLS, "table")
"""What ordinary closing tags do not reach out of."""
_ENDS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "li": (("li",), LISTS),
    "dt": (("dt", "dd"), ("dl",)),
    "dd": (("dt", "dd"), ("dl",)),
    "tr": (("tr",), ("table",)),
    **dict.fromkeys(CELLS, (CELLS, ("tr", "table"))),
    **dict.fromkeys(GROUPS, (GROUPS, ("table",))),
    **dict.fromkeys((*_LEAVES, *LISTS, "table", "blockquote"), (_LEAVES, (*CELLS, "li", "dd", "blockquote"))),
}
"""What an opening tag ends without a word: the innermost of the first that is not outside one of the second."""

_NAMES: Final = "|".join(sorted(TAGS, key=len, reverse=True))
_ATTRIBUTE: Final = r"""\s+[A-Za-z_:][\w:.-]*\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>]+)"""
_TAG: Final = re.compile(rf"<(/?)({_NAMES})((?:{_ATTRIBUTE})*)\s*(/?)>", re.IGNORECASE)
_VALUE: Final = re.compile(r"""([A-Za-z_:][\w:.-]*)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'<>]+))""")
_UNSEEN: Final = re.compile(
    r"<!--(?:(?!<!--|-->).)*-->|<!doctype\b[^<>]*>|<(style|script)\b[^<>]*>(?:(?!</?\1\b).)*</\1\s*>",
    re.IGNORECASE | re.DOTALL,
)
_BROKEN_OFF: Final = re.compile(
    r"(?:</[a-z]*\d?\s*|<[a-z]+\d?\s+[\w-]+\s*=[^<>]*|<(?:h[1-6]|t[drh]|li|br|div|table))\Z", re.IGNORECASE
)
"""An unfinished tag at the end of a page that was cut off; what could be text, such as `<b`, stays."""
_ENTITY: Final = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_FENCE: Final = re.compile(r"\A\s*```(?:html)?[ \t]*\n(.*?)(?:\n?```\s*)?\Z", re.DOTALL | re.IGNORECASE)


@dataclass(slots=True)
class Node:
    """An element and what is inside it. `closed` says that its own closing tag was there."""

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)
    closed: bool = False


def parse(text: str) -> Node | None:
    """The tree of a text with tags, None for one without. Never raises."""
    if not _TAG.search(text):
        return None
    fenced = _FENCE.match(text)
    text = _BROKEN_OFF.sub("", _UNSEEN.sub("", fenced[1] if fenced else text))
    root, done = Node(""), 0
    stack = [root]
    for tag in _TAG.finditer(text):
        _add_text(stack[-1], text[done : tag.start()])
        _take(stack, bool(tag[1]), tag[2].lower(), tag[3], bool(tag[4]))
        done = tag.end()
    _add_text(stack[-1], text[done:])
    return root


def _add_text(node: Node, text: str) -> None:
    if text:
        node.children.append(_ENTITY.sub(lambda entity: html.unescape(entity[0]).replace("\xa0", " "), text))


def _take(stack: list[Node], closing: bool, name: str, attributes: str, alone: bool) -> None:
    if closing and name not in EMPTY:
        _close(stack, name)
        return
    _end_before(stack, name)
    node = Node(name, {key.lower(): a or b or c for key, a, b, c in _VALUE.findall(attributes)})
    if len(stack) > _DEEPEST and name not in EMPTY:
        return
    stack[-1].children.append(node)
    if name not in EMPTY and not alone:
        stack.append(node)


def _close(stack: list[Node], name: str) -> None:
    """End the innermost element of this name; a heading is ended by any heading's tag. Nothing happens without one."""
    names = HEADINGS if name in HEADINGS else (name,)
    for depth in range(len(stack) - 1, 0, -1):
        if stack[depth].name in names:
            stack[depth].closed = True
            del stack[depth:]
            return
        if stack[depth].name in _WALLS and name not in ("table", "tr", *CELLS, *GROUPS):
            return


def _end_before(stack: list[Node], name: str) -> None:
    ended, walls = _ENDS.get(name, ((), ()))
    for depth in range(len(stack) - 1, 0, -1):
        if stack[depth].name in ended:
            del stack[depth:]
            return
        if stack[depth].name in walls:
            return
