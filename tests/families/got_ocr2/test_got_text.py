"""From the model's words to text: documented forms, and malformed ones, which must neither raise nor lose words."""

from __future__ import annotations

import re

import pytest

from ocr_mlx.model.families.got_ocr2.postprocess import formatted, plain
from tests.families import seeded

PAPER = r"""\title{
(5) \\ General OCR Theory: Towards a {Unified} Model
}

\author{
Haoran Wei \({ }^{1, *}\), Chenglong Liu \\ StepFun
}

\begin{abstract}
Traditional systems cost "$5".
\end{abstract}

\section*{1 Introduction}

Text \( \left(\frac{a}{b}\right) \) here.

\subsection{1.1 More \{braces\}}
\begin{tabular}{|l|l|} \hline a & b \\[2pt] \hline \end{tabular}"""
CLEAN = r"""# (5) General OCR Theory: Towards a {Unified} Model

Haoran Wei \({ }^{1, *}\), Chenglong Liu
StepFun

## Abstract

Traditional systems cost "$5".

## 1 Introduction

Text \( \left(\frac{a}{b}\right) \) here.

### 1.1 More \{braces\}

\begin{tabular}{|l|l|} \hline a & b \\[2pt] \hline \end{tabular}"""


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", ""),
        ("  text \n", "text"),
        ("text<|im_end|>", "text"),
        ("text<|im_end|><|endoftext|>\n", "text"),
        ("<|im_end|>", ""),
        ("a <|im_end|> b", "a <|im_end|> b"),
        (r"\title{A} \left( x", r"\title{A} \left( x"),
    ],
)
def test_plain_text_loses_its_end_mark_only(raw: str, expected: str) -> None:
    assert plain(raw) == expected


def test_a_paper_becomes_markdown() -> None:
    assert formatted(PAPER) == CLEAN
    assert formatted(CLEAN) == CLEAN


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (r"\(\left(a\right)\)", r"\(\left(a\right)\)"),
        (r"\(\left(a)\) and \(\left[b\right]\)", r"\((a)\) and \(\left[b\right]\)"),
        (r"\[\left\{a\]", r"\[\{a\]"),
        (r"\[a \right|\]", r"\[a |\]"),
        (r"\[\left. x \right|_{0} \right.\]", r"\[ x |_{0} \]"),
        (r"\[\left.5\]", r"\[.5\]"),
        (r"\(a \leftarrow b\)", r"\(a \leftarrow b\)"),
        (r"\(\left ( a \leftarrow b\)", r"\(( a \leftarrow b\)"),
        (r"\(\left(a", r"\((a"),
        (r"\left(a \) \right)", r"\left(a \) \right)"),
        (r"a \\[2pt] \left( b", r"a \\[2pt] ( b"),
    ],
)
def test_sizes_that_do_not_pair_go_formula_by_formula(raw: str, expected: str) -> None:
    assert formatted(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        r"\title{never closed",
        r"\section*{",
        "\\title{a {b}\n\nmuch text }",
        r"text \title{a {b} \} c",
        r"\sectional{a}",
        r"\begin{tabular}{l} a & b",
        "```\nx",
        "\\",
        "{}}}{{{",
        "\\begin{tikzpicture}\n\\left( \\title{a}\n\n\n\\end{tikzpicture}",
        "**kern\n*clefG2\n4c\\left(\n\n\n4d",
    ],
)
def test_what_cannot_be_read_stays(raw: str) -> None:
    assert formatted(raw) == raw


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (r"\title{A}", "# A"),
        (r"\title{}x", "x"),
        (r"before \section{A} after", "before\n\n## A\n\nafter"),
        (r"\subsubsection*{A}" + "\n\n\n\nb", "#### A\n\nb"),
        (r"\title{A \section{B} C}", r"# A \section{B} C"),
        (r"\section*{A" + "\nB}", "## A B"),
        (r"\section {A}", "## A"),
        ("a\n\n\n\n\nb", "a\n\nb"),
    ],
)
def test_headings(raw: str, expected: str) -> None:
    assert formatted(raw) == expected


def test_no_word_is_lost_in_any_soup() -> None:
    pieces = [r"\title{", "}", r"\left(", r"\right)", r"\(", r"\)", r"\[", r"\]", "{", "\\", "\n\n\n", " "]
    pieces += [r"\section*{", r"\begin{abstract}", r"\end{abstract}", r"\author{", r"\\", "<|im_end|>", r"\left."]
    for seed in range(300):
        numbers = (abs(seeded.normal("soup", (40,), seed)) * 1e4).astype(int)
        soup = "".join(pieces[n % len(pieces)] + (f"w{i}" if n % 3 else "") for i, n in enumerate(numbers))
        assert re.findall(r"w\d+", formatted(soup)) == re.findall(r"w\d+", soup)


def test_long_malformed_text_takes_no_time() -> None:
    for raw in (r"\title{" * 9000, r"\(" * 20_000, "\\" * 30_000, "{" * 30_000, r"\left(" * 9000, "\\\\ " * 20_000):
        assert formatted(raw)
