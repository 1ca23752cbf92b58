"""The examples in the documentation: they compile, and what they name is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ocr_mlx.client
from ocr_mlx.client import AsyncClient, Client
from ocr_mlx.client.options import ChatOptions, ReadOptions, SubmitOptions

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("client.md", "django.md")
OPTIONS = {*ReadOptions.__annotations__, *ChatOptions.__annotations__, *SubmitOptions.__annotations__}
OWN = {"timeout", "on_progress", "limit", "state"}


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if isinstance(node.func.value, ast.Name) and node.func.value.id == name:
                yield node


@pytest.mark.parametrize("page", PAGES)
def test_examples_name_what_there_is(page: str) -> None:
    found = blocks(page)
    assert len(found) >= 4
    for block in found:
        tree = ast.parse(block)
        compile(tree, page, "exec")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ocr_mlx.client"):
                module = __import__(str(node.module), fromlist=["*"])
                assert all(hasattr(module, name.name) for name in node.names), block
        for call in calls(tree, "client"):
            assert isinstance(call.func, ast.Attribute)
            assert hasattr(Client, call.func.attr) and hasattr(AsyncClient, call.func.attr), call.func.attr
            assert {keyword.arg for keyword in call.keywords} <= OPTIONS | OWN, ast.unparse(call)


def test_every_method_is_documented() -> None:
    text = (DOCS / "client.md").read_text(encoding="utf-8")
    methods = [name for name in vars(Client) if not name.startswith("_") and callable(getattr(Client, name))]
    missing = [name for name in methods if f"`{name}(" not in text and name not in ("close", "send")]
    assert not missing
    assert ocr_mlx.client.__all__ == sorted(ocr_mlx.client.__all__)
    assert all(hasattr(ocr_mlx.client, name) for name in ocr_mlx.client.__all__)


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Client) - {"close"} == public(AsyncClient) - {"aclose"}
