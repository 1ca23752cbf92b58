"""What becomes of QARI's HTML-like markup: golden cases of what it writes, and whatever a model may write instead."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_mlx.model.families.qwen2_vl.markup import markdown, plain
from ocr_mlx.model.families.qwen2_vl.markup_tree import TAGS

PAGE = """<h1>الفصل الأوّل</h1>
<h2>مقدّمة</h2>
<p>هذا نصٌّ <b>مهمّ</b> &amp; <i>قصير</i>.<br>سطر ثان</p>
<ul>
  <li>واحد</li>
  <li>اثنان
    <ol start="3"><li>أ</li><li>ب</li></ol>
  </li>
</ul>
<table border="1">
  <thead><tr><th>الاسم</th><th>العدد</th></tr></thead>
  <tbody><tr><td>كتاب</td><td>١٢</td></tr><tr><td>قلم</td><td>٣</td></tr></tbody>
</table>
<hr>
<blockquote>قال: <sup>1</sup></blockquote>"""
PAGE_TEXT = """الفصل الأوّل

مقدّمة

هذا نصٌّ مهمّ & قصير.
سطر ثان

واحد
اثنان
3. أ
4. ب

الاسم\tالعدد
كتاب\t١٢
قلم\t٣

قال: 1"""
PAGE_MARKDOWN = """# الفصل الأوّل

## مقدّمة

هذا نصٌّ **مهمّ** & *قصير*.
سطر ثان

- واحد
- اثنان
  3. أ
  4. ب

| الاسم | العدد |
| --- | --- |
| كتاب | ١٢ |
| قلم | ٣ |

---

> قال: <sup>1</sup>"""


def test_a_page() -> None:
    assert plain(PAGE) == PAGE_TEXT
    assert markdown(PAGE) == PAGE_MARKDOWN


@pytest.mark.parametrize(
    ("raw", "text", "marked"),
    [
        ("", "", ""),
        ("  نص بلا وسوم\nسطر  ثان &amp; < >\n", "نص بلا وسوم\nسطر  ثان &amp; < >", None),
        ("<p>a</p><p>b</p>", "a\n\nb", None),
        ("<p>a<p>b<p>c", "a\n\nb\n\nc", None),
        ("<div>a</div><div>b</div>\n<div>c</div>", "a\nb\nc", None),
        ("<div>a<div></div></div>\n\n<div>b</div>", "a\n\nb", None),
        ("<P CLASS='x' dir=rtl>a</P >", "a", None),
        ("```html\n<p>a</p>\n```", "a", None),
        ("```html\n<p>a", "a", None),
        ("<html><head><title>t</title></head><body>b</body></html>", "t\n\nb", None),
        ("<!DOCTYPE html><p>a<!-- b --></p><style>p {x: y}</style>", "a", None),
        ("<script>x<!--</script>a<!-- b<p>c --> d<!-- e", "a d<!-- e", None),
        ("<p>if a < b and <c> d <e f></p>", "if a < b and <c> d <e f>", None),
        ("<p>a <b and c> d</p>", "a <b and c> d", None),
        ("<p>x &lt;b&gt; &nbsp;&#1587;&rlm; &zwnj;&unknown; AT&T</p>", "x <b> س\u200f \u200c&unknown; AT&T", None),
        ("<h3>a</h4>b", "a\n\nb", "### a\n\nb"),
        ("<h2></h2>x", "x", "x"),
        ("<h1>a\nb</h1>", "a\nb", "# a b"),
        ("</p></table>a</b>", "a", None),
        ("<p>a<b> b</b>c <i>d</p>", "a bc d", "a **b**c d"),
        ("<b><strong>a</strong></b>", "a", "**a**"),
        ("<b></b>x<i> </i>", "x", "x"),
        ("<p><s>a</s> <code>b</code> H<sub>2</sub>O</p>", "a b H2O", "~~a~~ `b` H<sub>2</sub>O"),
        ("<a href='http://x/?a=1&b=2'>n</a>", "n", "[n](http://x/?a=1&b=2)"),
        ("<a href=http://x/y>n</a><img src=a.png />", "n", "[n](http://x/y)![](a.png)"),
        ('<img src="a.png" alt="صورة"/>', "صورة", "![صورة](a.png)"),
        ("<ul><li>a<li>b</ul>c", "a\nb\n\nc", "- a\n- b\n\nc"),
        ("<ol><li>a<p>b</p></li>x</ol>", "1. a\nb\n2. x", "1. a\n   b\n2. x"),
        ("<dl><dt>a<dd>b<dt>c</dl>", "a\nb\nc", None),
        ("<blockquote><p>a</p><p>b</p></blockquote>", "a\n\nb", "> a\n>\n> b"),
        ("<pre>a\n  b</pre>", "a\n  b", None),
        ("<p>cut off <td", "cut off", None),
        ("<p>cut off</ta", "cut off", None),
        ('<p>cut off<p style="x', "cut off", None),
        ("<p>a <b", "a <b", None),
    ],
)
def test_cases(raw: str, text: str, marked: str | None) -> None:
    assert plain(raw) == text
    assert marked is None or markdown(raw) == marked


@pytest.mark.parametrize(
    ("raw", "text", "marked"),
    [
        ("<table>", "", ""),
        ("<table><tr><td>a<td>b<tr><td>c", "a\tb\nc", "| a | b |\n| --- | --- |\n| c |  |"),
        ("<td>a</td><td>b</td>", "a\tb", "a\tb"),
        ("<tr><td>12</td><td>34</td></tr><tr><td>5</td><td>6</td></tr>", "12\t34\n5\t6", "12\t34\n5\t6"),
        ("<table>x<tr><td>a</td>y</tr></table>", "x\na\ty", "| x |  |\n| --- | --- |\n| a | y |"),
        ("<table><td>a<td>b</table>", "a\tb", "| a | b |\n| --- | --- |"),
        (
            "<table><tr><td rowspan=2>a<td colspan=2>b<tr><td>c<td>d</table>",
            "a\tb\n\tc\td",
            "| a | b |  |\n| --- | --- | --- |\n|  | c | d |",
        ),
        ("<table><caption>t</caption><tr><th>a|b<br>c</table>", "t\n\na|b c", "t\n\n| a\\|b<br>c |\n| --- |"),
        (
            "<table><tr><td><table><tr><td>x<td>y</table></td><td><h2>h</h2><ul><li>l</ul></table>",
            "x y\th l",
            "| x y | h<br>l |\n| --- | --- |",
        ),
        ("<table><tr><td rowspan=99999999 colspan='x'>a", "a", "| a |\n| --- |"),
        ("<p>before<table><tr><td>a</td></tr></table>after", "before\n\na\n\nafter", None),
        ("<table><thead><tr><th>a<tbody><tr><td>b<tfoot><tr><td>c", "a\nb\nc", None),
    ],
)
def test_tables(raw: str, text: str, marked: str | None) -> None:
    assert plain(raw) == text
    assert marked is None or markdown(raw) == marked


def test_direction_marks_and_diacritics_stay_in_their_order() -> None:
    text = "\u202bبِسْمِ اللَّهِ (abc 123)\u202c \u2067می\u200cخواهم\u2069 ﷺ ـــ ١٢٣ \u200f؟ שלום"
    for write in (plain, markdown):
        assert write(text) == text
        assert write(f"<p>{text}</p>") == text
    assert markdown(f"<h1>{text}</h1>") == f"# {text}"


def test_deep_and_long_markup_is_survived() -> None:
    for write in (plain, markdown):
        assert write("<b>" * 5000 + "deep") == "deep"
        assert write("<div>" * 3000 + "deep" + "</div>" * 3000 + " end").split() == ["deep", "end"]
        assert write("<table><tr><td>" * 2000 + "deep").split() in (["deep"], ["|", "deep", "|", "|", "---", "|"])
        assert write('<p a="' * 3000).startswith("<p a=")
        assert "x" in write("<ul><li>x" * 2000)
        assert write("<p>a" + " " * 200_000 + "b") == "a b"
        assert write("<p>" + "<style>a" * 5000).count("<style>") == 5000
        assert write("<p>" + "<!--" * 5000).count("<!--") == 5000


PIECES = st.sampled_from(
    [
        *(f"<{name}>" for name in TAGS),
        *(f"</{name}>" for name in TAGS),
        *("<td colspan=3>", '<td rowspan="2">', "<ol start=9>", "<p", "<", ">", "&", "&amp;", "\n", " ", "|", "`", "*"),
    ]
)
WORDS = st.integers(0, 999).map(lambda number: f"كلمة{number:03d}")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.one_of(PIECES, WORDS), max_size=40))
def test_no_word_is_ever_lost(pieces: list[str]) -> None:
    words = [piece for piece in pieces if piece.startswith("كلمة")]
    for write in (plain, markdown):
        found = re.findall(r"كلمة\d{3}", write("<p>" + "".join(pieces)))
        assert sorted(found) == sorted(words)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text(max_size=60), st.text(alphabet="<>/abtdrp=\"' !-&;", max_size=40))
def test_nothing_raises(one: str, other: str) -> None:
    for text in (one + other, f"<p>{one}<{other}", f"<table {other}>{one}"):
        plain(text)
        markdown(text)
