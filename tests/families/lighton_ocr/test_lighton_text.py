"""The model's words to what users get: formulas, boxes, and what happens when the model writes neither properly."""

from __future__ import annotations

import random

import pytest

from ocr_mlx.domain import Block
from ocr_mlx.model.families.lighton_ocr.dollars import fix_escaped_dollars, is_formula
from ocr_mlx.model.families.lighton_ocr.postprocess import page_text

WIDE, HIGH = 2000, 1000

# --- boxes


def test_grounded_page() -> None:
    raw = (
        "![title](100,50,900,90) # Attention\n"
        "![text](100,100,480,900) A paragraph that the column\n"
        "![text+](520,100,900,300) breaks in two.\n"
        "![table](520,320,900,600)\n<table>\n<tr><td>1</td></tr>\n</table>\n"
        "![image](520,620,900,880) A diagram.\n"
        "![page_number](490,950,510,960) 3"
    )
    page = page_text(raw, WIDE, HIGH)
    assert page.text == (
        "# Attention\n\nA paragraph that the column breaks in two.\n\n"
        "<table>\n<tr><td>1</td></tr>\n</table>\n\nA diagram.\n\n3"
    )
    assert [block.label for block in page.blocks] == ["title", "text", "text", "table", "image", "page_number"]
    assert page.blocks[0] == Block(
        label="title", text="# Attention", box=(200, 50, 1800, 90), normalized=(0.1, 0.05, 0.9, 0.09)
    )
    assert page.blocks[2].text == "breaks in two."
    assert page.blocks[3].text.startswith("<table>")


@pytest.mark.parametrize("space", ["", " ", "\n"])
def test_pictures_of_the_bbox_models(space: str) -> None:
    raw = (
        f"# Title\n\n![image](image_1.png){space}100,200,300,400\n\nText 1,2,3,4.\n\n![image](image_2.png)\n\n5 apples"
    )
    page = page_text(raw, WIDE, HIGH)
    assert page.text == "# Title\n\n![image](image_1.png)\n\nText 1,2,3,4.\n\n![image](image_2.png)\n\n5 apples"
    assert page.blocks == (
        Block(label="image", text="image_1.png", box=(200, 200, 600, 400), normalized=(0.1, 0.2, 0.3, 0.4)),
    )


def test_nothing_marked() -> None:
    page = page_text("  # Title\n\nText with ![a](b.png) and (1,2,3,4).\n", WIDE, HIGH)
    assert page.text == "# Title\n\nText with ![a](b.png) and (1,2,3,4)."
    assert page.blocks == ()


@pytest.mark.parametrize(
    ("raw", "normalized"),
    [
        ("![text](900,800,100,200) a", (0.1, 0.2, 0.9, 0.8)),  # corners in the other order
        ("![text](-5,0,1200,1000) a", (0.0, 0.0, 1.0, 1.0)),  # beyond the page
        ("![text]( 1 , 2 ,\n3, 4 ) a", (0.001, 0.002, 0.003, 0.004)),
        ("![text](1.5,2,3,4) a", (0.0015, 0.002, 0.003, 0.004)),
        ("![image](image_1.png) 9999,0,0,10", (0.0, 0.0, 1.0, 0.01)),
    ],
)
def test_boxes_are_brought_onto_the_page(raw: str, normalized: tuple[float, ...]) -> None:
    (block,) = page_text(raw, WIDE, HIGH).blocks
    assert block.normalized == pytest.approx(normalized)
    left, top, right, bottom = block.normalized
    assert block.box == pytest.approx((left * WIDE, top * HIGH, right * WIDE, bottom * HIGH))


@pytest.mark.parametrize(
    "raw",
    [
        "![text](1,2,3) three numbers",
        "![text](1,2,3,4,5) five numbers",
        "![text](1,2,3,4 no end",
        "![text(1,2,3,4) no end of the label",
        "![](1,2,3,4) no label",
        "![two words](1,2,3,4) no label",
        "![text](a,b,c,d) letters",
        "![text](99999999999999999999,2,3,4) more digits than a number has",
        "![image](image_1.png)\n\n1,234,567,890 people live there.",
        "![image](image_1.png)\n12, 14, 15, 18 and 20 May",
        "![image](image_1.png)\n\n12, 14, 15, 18",
        "![image](image_1.png) 1,2,3",
        "![image](image_1.png) 1,2,3,4,5",
        "![image](image_1.png 1,2,3,4",
        "![image](image_1.png)",
    ],
)
def test_malformed_marks_stay_in_the_text(raw: str) -> None:
    page = page_text(raw, WIDE, HIGH)
    assert page.text == raw
    assert page.blocks == ()


def test_words_before_the_first_mark_stay() -> None:
    page = page_text(
        "Preface\n![text](1,2,3,4) a\n![text+](5,6,7,8) b\n![text+](1,1,2,2)\n![text+](1,1,2,2) c", WIDE, HIGH
    )
    assert page.text == "Preface\n\na b\n\nc"
    assert len(page.blocks) == 4
    assert page_text("start of\n![text+](1,2,3,4) a page", WIDE, HIGH).text == "start of a page"


def test_a_label_that_nobody_knows_is_kept() -> None:
    assert page_text("![stamp-2](1,2,3,4) PAID", WIDE, HIGH).blocks[0].label == "stamp-2"


def test_no_words_are_lost_and_nothing_raises() -> None:
    pieces = ["![text](1,2,3,4)", "![text+](", "![image](image_1.png)", " 5,6,7,8", ")", "](", "$", r"\$", "<td>", "word",
              "\n", "\n\n", "```", "{", "}", r"\frac{a}", "éß", "![", "9" * 30]  # fmt: skip
    draw = random.Random(3)
    for _ in range(1500):
        raw = "".join(draw.choice(pieces) for _ in range(draw.randint(0, 12)))
        text = page_text(raw, WIDE, HIGH).text
        for word in ("word", "éß", "9" * 30):
            assert text.count(word) == raw.count(word), raw


@pytest.mark.parametrize(
    "unit", ["![text](", r"\$", "$$", "<td", "`", r"\(", "![a](b)", "1,", "[", "<!--", r"\$x{", " " * 50]
)
def test_runaway_output_is_read_quickly(unit: str) -> None:
    raw = unit * (12_000 // len(unit))
    assert len(page_text(raw, WIDE, HIGH).text) <= len(raw)


# --- formulas


@pytest.mark.parametrize(
    ("raw", "mended"),
    [
        (r"\$x\$", "$x$"),
        (r"Let \$x^2 + y_1\$ and \$\frac{a}{b}\$ be", r"Let $x^2 + y_1$ and $\frac{a}{b}$ be"),
        (r"one side: \$x+1$ and $y\$", "one side: $x+1$ and $y$"),
        (r"\$\text{a long word} = 5\$", r"$\text{a long word} = 5$"),
        ("\\$\\begin{array}{c}\na\n\\end{array}\\$", "$\\begin{array}{c}\na\n\\end{array}$"),
        (r"\$[0, 1)\$", "$[0, 1)$"),
        (r"\$(0, 1]\$", "$(0, 1]$"),
        (r"\$3 \times 4\$", r"$3 \times 4$"),
        (r"$a$ and \$b\$", "$a$ and $b$"),
        (r"![a](x\$1\$y) \$z\$", r"![a](x\$1\$y) $z$"),
    ],
)
def test_escaped_formulas(raw: str, mended: str) -> None:
    found = fix_escaped_dollars(raw)
    assert found == mended
    assert fix_escaped_dollars(found) == found


@pytest.mark.parametrize(
    "raw",
    [
        r"costs \$5 or \$10",
        r"between \$5 and \$10 a month",
        r"\$5$x$",
        r"US\$x\$",
        r"\$word\$",
        r"\$the cost of it\$",
        "\\$x\ny\\$",
        "\\$x\n\ny\\$",
        r"`\$x\$` and ``\$y\$``",
        "```\n\\$x\\$\n```",
        "    \\$x\\$",
        r"$$\$x\$$$",
        r"\[ \$x\$ \]",
        r"<a href='\$x\$'>",
        r"<pre>\$x\$</pre>",
        r"https://example.org/\$x\$",
        r"[a](/\$x\$)",
        r"<!-- \$x\$ -->",
        r"\$</td><td>\$",
        r"\$\$",
        r"\$(x\$",
        r"\$}{\$",
        r"\$, x\$",
        r"\$ = \$",
        "$x$ and $y$",
        r"\$x",
        "",
    ],
)
def test_prices_code_and_doubts_are_left_alone(raw: str) -> None:
    assert fix_escaped_dollars(raw) == raw


@pytest.mark.parametrize(("body", "formula"), [("x", True), (r"\sum_{i=1}^{n} x_i", True), (r"\left\{a\right\}", True),
                                               (r"a\{", True), ("{a", False), ("a}", False), (r"\frac{a", False),
                                               ("ab cd", False), ("a b", True), ("a?", False), (" ", False)])  # fmt: skip
def test_what_reads_like_a_formula(body: str, formula: bool) -> None:
    assert is_formula(body) is formula


def test_blocks_are_mended_too() -> None:
    page = page_text(r"![formula](1,2,3,4) \$x\$", WIDE, HIGH)
    assert page.text == page.blocks[0].text == "$x$"
