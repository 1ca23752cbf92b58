"""README says what the program does."""

from __future__ import annotations

import re
from pathlib import Path

from ocr_mlx.settings import table

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def between(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_settings_are_all_there_as_the_program_reads_them() -> None:
    """`python -m ocr_mlx.settings` prints what belongs between the markers."""
    assert between("settings").strip() == table().strip()


def test_the_test_command_is_one_line() -> None:
    lines = [line for line in between("tests").splitlines() if line and not line.startswith("```")]
    assert len(lines) == 1 and lines[0].endswith("pytest -q -n 2")


def test_every_page_status_is_explained() -> None:
    from ocr_mlx.domain import PageStatus

    explained = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert {status.value for status in PageStatus} <= explained
