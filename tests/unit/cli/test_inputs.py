"""Words on the command line: patterns, names of outputs, labels in messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocr_mlx.cli.inputs import expand, label, output_names


def test_a_file_that_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    odd = tmp_path / "page[1].png"
    odd.touch()
    assert expand([str(odd), "-", "https://a/?b=*"]) == [str(odd), "-", "https://a/?b=*"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["a.png", "b.pdf"], ["a.txt", "b.txt"]),
        (["a.png", "a.pdf"], ["a.png.txt", "a.pdf.txt"]),
        (["x/a.png", "y/a.png"], ["a.png.txt", "a.png-2.txt"]),
        (["A.png", "a.jpg"], ["A.png.txt", "a.jpg.txt"]),
        (["-", "data:image/png;base64,x"], ["stdin.txt", "data.txt"]),
        (["https://h/p/page%201.png?q=1", "https://host/"], ["page 1.txt", "host.txt"]),
        (["file:///a/b.png"], ["b.txt"]),
    ],
)
def test_names_of_outputs(words: list[str], names: list[str]) -> None:
    assert output_names(words, "txt") == names


def test_labels_are_short_and_hold_no_document() -> None:
    assert label("data:image/png;base64,secret") == "data URI"
    assert len(label("x" * 1000)) < 110
