"""How commands are written, and how their help writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand


class Shown(TyperCommand):
    """A command whose help names its arguments as people write them: `INPUT...`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Typer's pieces without its braces."""
        return [piece.translate(_NO_BRACES) for piece in super().collect_usage_pieces(ctx)]

    def get_help(self, ctx: Any) -> str:
        """Typer's help; the type of a list goes, and what follows stays in its column."""
        return super().get_help(ctx).replace("INPUT <list[str]>", "INPUT...".ljust(len("INPUT <list[str]>")))


_NO_BRACES = str.maketrans("", "", "{}")


def dashes(argv: Sequence[str]) -> list[str]:
    """`--top_p` is `--top-p`, everywhere."""
    end = argv.index("--") if "--" in argv else len(argv)
    return [_dashed(word) for word in argv[:end]] + list(argv[end:])


def _dashed(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word
