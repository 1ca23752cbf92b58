"""A model's words as plain text or as markdown.

A text without any tag (QARI 0.2 writes such) is left as it is. Characters stay in their logical order, which is what
every program expects of right-to-left text; direction marks, joiners and diacritics stay where the model wrote them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ocr_mlx.model.families.qwen2_vl.markup_tree import CELLS, GROUPS, HEADINGS, LISTS, SECTIONS, Node, parse

_MOST_SPAN: Final = 64
_MOST_PLACES: Final = 20_000
"""Of one table's cells together; beyond these each cell has one place."""
_MOST_DIGITS: Final = 9
_EMPHASIS: Final = {"b": "**", "strong": "**", "i": "*", "em": "*", "s": "~~", "del": "~~", "strike": "~~", "code": "`"}
_SPACES: Final = re.compile(r"[ \t]+")
_INDENT: Final = re.compile(r" ?\n ?")
_GAP: Final = re.compile(r"\n{3,}")


def formatted(raw_text: str, kind: str) -> str:
    """The model's words as `text`, as `markdown`, or `raw`, which is as they are."""
    if kind == "raw":
        return raw_text.strip()
    return markdown(raw_text) if kind == "markdown" else plain(raw_text)


def plain(text: str) -> str:
    """The text without markup: nothing but white space takes its place, and numbers for ordered lists."""
    return _written(text, PlainWriter())


def markdown(text: str) -> str:
    """The text with its markup as markdown. Tables have a row of headings, as markdown's must: the first one."""
    return _written(text, MarkdownWriter())


def _written(text: str, writer: PlainWriter) -> str:
    tree = parse(text)
    if tree is None:
        return text.strip()
    lines = (line.rstrip() for line in writer.inside(tree).split("\n"))
    return _GAP.sub("\n\n", "\n".join(lines)).strip(" \n")


class PlainWriter:
    """Writes a tree as lines: a blank line around blocks, a tab between cells."""

    def inside(self, node: Node) -> str:
        """What is inside an element."""
        written = [""]
        for child in node.children:
            piece = self.piece(child)
            if written[-1].endswith("\n"):
                begun = piece.startswith("\n") and not piece.startswith("\n\n")
                piece = (piece[1:] if begun else piece).lstrip(" ")
            if piece:
                written.append(piece)
        return "".join(written)

    def piece(self, child: Node | str) -> str:
        """A text or an element, with the line ends it needs around it."""
        if isinstance(child, str):
            return _INDENT.sub("\n", _SPACES.sub(" ", child))
        name = child.name
        if name in HEADINGS:
            return self.heading(child)
        if name in LISTS:
            return self.items(child)
        if name == "table":
            return self.table(child)
        if name in (*SECTIONS, "p", "pre", "blockquote"):
            return self.block(child)
        if name == "tr":
            return _lines("\t".join(self.cell(part)[0] for part in _solid(child.children)))
        if name in CELLS:
            return f"{self.cell_text(self.inside(child))}\t"
        if name in ("div", "li", "dt", "dd", *GROUPS):
            return _lines(self.inside(child))
        return self.inline(child)

    def heading(self, node: Node) -> str:
        """A heading."""
        return self.block(node)

    def block(self, node: Node) -> str:
        """A paragraph or the like; preformatted lines keep their spaces."""
        if node.name == "pre":
            return _apart("".join(child if isinstance(child, str) else self.piece(child) for child in node.children))
        return _apart(self.inside(node))

    def items(self, node: Node) -> str:
        """A list, an item a line."""
        items, number = [], _number(node, "start", 1)
        for child in _solid(node.children):
            written = self.inside(child) if isinstance(child, Node) and child.name == "li" else self.piece(child)
            lines = _GAP.sub("\n\n", written.strip()).replace("\n\n", "\n")
            items.append(self.item(lines, number if node.name == "ol" else None))
            number += 1
        return _apart("\n".join(items))

    def item(self, text: str, number: int | None) -> str:
        """An item of a list, behind its number where it has one."""
        return text if number is None else f"{number}. {text}"

    def table(self, node: Node) -> str:
        """A table, a row a line."""
        captions, rows = self.rows(node)
        return "".join(map(_apart, captions)) + _apart("\n".join("\t".join(row) for row in _grid(rows)))

    def rows(self, node: Node) -> tuple[list[str], list[list[_Cell]]]:
        """A table's captions and its rows. What stands beside the cells becomes a cell."""
        captions: list[str] = []
        rows: list[list[_Cell]] = []
        loose: list[_Cell] | None = None
        for child in _solid(node.children):
            name = child.name if isinstance(child, Node) else ""
            if name == "caption":
                captions.append(self.piece(child))
            elif isinstance(child, Node) and name in GROUPS:
                more, inner = self.rows(child)
                captions += more
                rows += inner
            elif isinstance(child, Node) and name == "tr":
                rows.append([self.cell(part) for part in _solid(child.children)])
                loose = None
            elif name not in ("colgroup", "col"):
                if loose is None:
                    rows.append(loose := [])
                loose.append(self.cell(child))
        return captions, [row for row in rows if row]

    def cell(self, child: Node | str) -> _Cell:
        """A cell's text on one line, and how many rows and columns it takes."""
        if isinstance(child, Node) and child.name in CELLS:
            return self.cell_text(self.inside(child)), _number(child, "rowspan", 1), _number(child, "colspan", 1)
        return self.cell_text(self.piece(child)), 1, 1

    def cell_text(self, text: str) -> str:
        """A cell's text on one line."""
        return " ".join(text.split())

    def inline(self, node: Node) -> str:
        """A part of a line, or what ends one."""
        if node.name == "img":
            return node.attributes.get("alt", "")
        return {"br": "\n", "hr": "\n\n"}.get(node.name, "") or self.inside(node)


class CellWriter(PlainWriter):
    """Writes what may stand inside a line of markdown."""

    def inline(self, node: Node) -> str:
        """Emphasis whose end was written, links, pictures."""
        inner = super().inline(node)
        if mark := _EMPHASIS.get(node.name):
            return _around(inner, mark, mark) if node.closed and not inner.strip().startswith(mark) else inner
        if node.name in ("sup", "sub") and node.closed:
            return _around(inner, f"<{node.name}>", f"</{node.name}>")
        if node.name == "a" and (target := node.attributes.get("href")):
            return _around(inner, "[", f"]({target})")
        if node.name == "img" and (source := node.attributes.get("src")):
            return f"![{inner}]({source})"
        return inner

    def cell_text(self, text: str) -> str:
        """A cell's text on one line, line breaks written as such."""
        lines = (" ".join(line.split()) for line in text.strip().split("\n"))
        return "<br>".join(line for line in lines if line).replace("|", "\\|")


class MarkdownWriter(CellWriter):
    """Writes a tree as markdown."""

    def heading(self, node: Node) -> str:
        """A heading on one line."""
        text = " ".join(self.inside(node).split())
        return _apart(f"{'#' * int(node.name[1])} {text}") if text else ""

    def block(self, node: Node) -> str:
        """A paragraph, or a quotation."""
        written = super().block(node)
        if node.name != "blockquote" or not (text := written.strip()):
            return written
        return _apart("\n".join(f"> {line}".rstrip() for line in _GAP.sub("\n\n", text).split("\n")))

    def item(self, text: str, number: int | None) -> str:
        """An item, its further lines below its first."""
        mark = "- " if number is None else f"{number}. "
        return mark + text.replace("\n", "\n" + " " * len(mark))

    def table(self, node: Node) -> str:
        """A table with bars; what is inside its cells stays on a line."""
        captions, rows = CellWriter().rows(node)
        grid = _grid(rows)
        if not grid:
            return "".join(map(_apart, captions))
        grid.insert(1, ["---"] * len(grid[0]))
        return "".join(map(_apart, captions)) + _apart("\n".join(f"| {' | '.join(row)} |" for row in grid))

    def inline(self, node: Node) -> str:
        """As inside a cell, and rules."""
        return "\n\n---\n\n" if node.name == "hr" else super().inline(node)


_Cell = tuple[str, int, int]
"""text, rows, columns"""


def _grid(rows: Sequence[Sequence[_Cell]]) -> list[list[str]]:
    """Rows of one length. A cell that takes several places stands in the first of them."""
    texts: dict[tuple[int, int], str] = {}
    for number, row in enumerate(rows):
        column = 0
        for text, high, wide in row:
            while (number, column) in texts:
                column += 1
            if len(texts) > _MOST_PLACES:
                high = wide = 1
            places = [
                (r, c) for r in range(number, min(number + high, len(rows))) for c in range(column, column + wide)
            ]
            texts |= dict.fromkeys(places, "") | {(number, column): text}
            column += wide
    width = max((column for _, column in texts), default=-1) + 1
    return [[texts.get((number, column), "") for column in range(width)] for number in range(len(rows))]


def _solid(children: Sequence[Node | str]) -> list[Node | str]:
    """The children but for the white space between them."""
    return [child for child in children if not isinstance(child, str) or child.strip()]


def _number(node: Node, name: str, default: int) -> int:
    found = node.attributes.get(name, "")
    if not found.isdecimal():
        return default
    most = 10**6 if name == "start" else _MOST_SPAN
    return min(max(int(found), 1), most) if len(found) < _MOST_DIGITS else most


def _around(text: str, before: str, after: str) -> str:
    """The text between these marks, white space outside them; as it is where it is empty or of several lines."""
    bare = text.strip()
    if not bare or "\n" in bare:
        return text
    return text.replace(bare, f"{before}{bare}{after}", 1)


def _lines(text: str) -> str:
    return f"\n{text.strip()}\n" if text.strip() else "\n"


def _apart(text: str) -> str:
    return f"\n\n{text.strip()}\n\n" if text.strip() else ""
