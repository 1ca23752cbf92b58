# ruff: noqa: E501
"""Pages as a model might write them, each made to trigger a rule of the post-processing or to slip just past it."""

_SENTENCE = "The quick brown fox jumps over the lazy dog and runs away. "
_LOOP = "we also note that the same holds for all other cases of this kind, "
_REFERENCE = "* [{}] A. Author, B. Writer, Some long title of a paper, Journal of Things {} (20{:02d}) 11."


def _references(count: int, heading: str = "## References\n\n", tail: str = "") -> str:
    return heading + "\n".join(_REFERENCE.format(i, i, i % 100) for i in range(1, count + 1)) + tail


def _varied(count: int) -> str:
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu".split()
    return "\n".join(
        f"* [{i}] {words[i % 12].title()} {words[i * 5 % 12]} and {words[i * 7 % 11]}, {words[i * 3 % 10] * 3}, {i}."
        for i in range(count)
    )


PAGES = (
    "",
    " ",
    "word",
    "A",
    "7",
    ";",
    "a\n\nb",
    "x\n\nThe text begins after a lone character.",
    "The text ends before a lone character\n\nq",
    "A plain sentence that ends well.",
    "A sentence that goes on to the next",
    "An equation ends it \\[x^{2}\\]",
    "ends with brace \\frac{a}{b}",
    "ends with comma,",
    "# Title\n\nText of the section, unfinished",
    "**Bold** opening of the page",
    "\\begin{table} \\begin{tabular}{l c} a & b \\\\ \\end{tabular} \\end{table} Table 1: Caption.",
    "Some text\nFigure 3: A caption",
    "Some text\nTable 2: A caption",
    "# A very long heading that is no heading at all but a paragraph of running text that the model has marked as one by mistake and more",
    "Intro\n### 12. A very long heading that is no heading at all but a paragraph of running text that the model has marked wrongly as one",
    "Text\n\n# \n\nMore text",
    "Text\n\n## 3.1\n\nMore text",
    "Text\n\n### iv.\nMore text",
    "Text\n\n## 1.2 Real heading\n\nMore text",
    "Text of a page.\n\n## Conclusion",
    "## Only a heading",
    "Text\n\n##Conclusion",
    "Items\n* [leftmargin=*]\n* one\n* two",
    _SENTENCE * 3,
    _SENTENCE + _LOOP * 9,
    _SENTENCE * 2 + "Then it starts. " + _LOOP * 12 + "we also note",
    "No punctuation here " + "abcdefghij klmnopqrst uvwxyz0123 " * 6,
    "Ünïcödé İstanbul " + "Straße und Größe, immer wieder dasselbe Lied. " * 7,
    "Short repeats do not count: " + "ab " * 40,
    "First a sentence of its own. Then " + "thirty-five letters, twice at most. " * 2,
    "First a sentence of its own. Then " + "twenty-nine letters of text. " * 2,
    "First a sentence of its own. Then " + "exactly thirty letters of it. " * 2,
    "\n".join(f"Entry {'abcdefghijklmnopqrst'[i] * 5} of the list in the page" for i in range(20)) + "\nThe end of it",
    "\n".join(f"Entry {'abcdefghijklmnopqrst'[i] * 2} of the list in the page" for i in range(20)) + "\nThe end of it",
    _references(5),
    _references(14),
    _references(30),
    _references(30, heading="Discussion of results.\n\n"),
    _references(
        24, heading="A paragraph before.\n\n## References\n\n* [0] X. Unlike, An entirely different work, 1999.\n"
    ),
    _references(24, tail="\n\nAnd then the next page's content begins with words."),
    _references(
        20,
        heading="Line one\nLine two\nLine three\nLine four\nLine five\n* [0] Something else altogether, with its own text\n",
    ),
    _varied(40),
    "\n".join("The same line again" for _ in range(30)),
    "Start of page.\n"
    + "\n\n".join(f"Equation number {i} holds for all x." for i in range(40))
    + "\nEnd of page, at last.",
    "\n".join(f"**{i}** Row of a list that never changes" for i in range(25)) + "\nQuite another line here",
    "[MISSING_PAGE_FAIL:1]\n" * 20,
    "* [12] A. B. C. D. E. F. G. H. I. J. K. L. Many authors and a title",
    "* [12] A. B. C. Few authors and a title",
    "* [7][] Someone, Something, 2001.",
    "The value of _x_, and of _y_; see also 3_z_ here.",
    "A (_a__1_) and _b__23_. or _c__ij_, too",
    "Text _ab_ stays as it is",
    "Body\nFootnote 1: footnotetext: The note itself.\n\nMore body",
    "Body\nFootnote 2: thanks: Supported by a grant.",
    "Before [FOOTNOTE:3]inside the note[ENDFOOTNOTE] after",
    "* one * two words * three words here",
    "- 1. first item - 2. second item - 2.1 nested item - x",
    "Intro\n- 1.1 first thing - 1.2.3 second thing * other\nLast line",
    "* iv.2 roman numeral - still going on",
    "Text with a - dash in it",
    "-- not - a list",
    "\\begin{table} \\begin{tabular}{l l}  & \\\\ \\end{tabular} \\end{table}",
    "Before \\begin{tabular}{c c c} & & \\\\ \\end{tabular} after",
    "Before \\begin{tabular}{ccc}   &  &   \\end{tabular} after",
    "Before \\begin{tabular}{cc} a & b \\\\ \\end{tabular} after",
    "\\begin{tabular}{}\n\n\\end{tabular}",
    "row " + "a & b & " * 210 + "\nnext line",
    "x" + "\\begin{tabular}{c}" * 16 + "\nnext line",
    "y" + "\\multicolumn{2}{c}{z} " * 61 + "\nnext line",
    "\\[\\begin{array}[]{ll} a & b \\end{array}\\]",
    "Names\n\n**S. A. B.**\n\n**S. A. B.**\n\n**S. A. B.**\n\nEnd",
    "Once\n\n**S. A. B.**\n\nEnd",
    "Text\n\n## [\n\nmore\n\n# 4\n\n###\n\nend",
    "Text\n.\nmore text\n.  \nend",
    "Wide\n\n\n\n\ngaps\n\n\nhere",
    "(12) \\[a = b + c\\]",
    "\\[a = b + c\\] (3.1a)",
    "\\[a = b\\] (4) \\[c = d\\]",
    "Text (5) \\[not at the start\\]",
    "Name et al\\. wrote \\bm{x} and {\\\\bm y} and \\mbox{ \\boldmath$z$} and \\mbox{\\boldmath$w$}",
    "See https://example.org/a?b=c and http://x.y/z, or ftp://files.host.net/pub.",
    "``` Algorithm 1: do it ``` then ```\n\nmore steps\n\n``` end",
    "``` never closed",
    "```   ``` odd one",
    "```   ``` x ``` y",
    "````quoted```` and ``` ```",
    "Tab\t separated \t text with \u00a0 spaces\u2003here.",
    "Line one\r\nLine two\r\n\r\n\r\nLine three",
)
