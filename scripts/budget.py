"""Fails when a source file has more than 400 lines or a function more than 60: the size at which a reader loses the thread."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 400
FUNCTION_LINES = 60


def findings(root: Path) -> Iterator[str]:
    """Every file and function over budget, one line each."""
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > FILE_LINES:
            yield f"{path}: {lines} lines (at most {FILE_LINES})"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    yield f"{path}:{node.lineno}: {node.name} has {length} lines (at most {FUNCTION_LINES})"


def main() -> int:
    """Print the findings; 1 when there are any."""
    top = Path(__file__).resolve().parent.parent
    found = [line for folder in ("src", "scripts") for line in findings(top / folder)]
    print("\n".join(found) or "every file and function is within its budget")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
