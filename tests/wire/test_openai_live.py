"""Pieces of text that come while a page is decoded, against what each family's cleaning makes of the whole page."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from PIL import Image

from ocr_mlx.domain import DocumentDone, OcrResult, Page, PageDone, PageResult, PageStatus, TextDelta, TextRewind
from ocr_mlx.model.families.deepseek_ocr.modes import Reading
from ocr_mlx.model.families.deepseek_ocr.postprocess import clean_page as deepseek
from ocr_mlx.model.families.got_ocr2 import postprocess as got
from ocr_mlx.model.families.lighton_ocr.postprocess import page_text as lighton
from ocr_mlx.model.families.nougat.postprocess import clean_page as nougat
from ocr_mlx.model.families.nougat.strips import tidy
from ocr_mlx.model.families.qwen2_vl import markup as qwen
from ocr_mlx.server.openai.convert import chat
from ocr_mlx.server.openai.live import LiveText, repeated
from ocr_mlx.server.openai.schemas import ChatRequest
from tests.wire.openai_fakes import messages

PAGE = Page(index=0, image=Image.new("RGB", (10, 10)), width=10, height=10, dpi=None, origin="image")
ASK = chat(ChatRequest.model_validate({"model": "any", "messages": messages()}))
CLEAN: dict[str, Callable[[str], str]] = {
    "nougat": lambda raw: nougat(raw, markdown=True).strip(),
    "builtin": tidy,
    "lighton": lambda raw: lighton(raw, 10, 10).text,
    "got": got.plain,
    "got-format": got.formatted,
    "qwen": qwen.plain,
    "qwen-markdown": qwen.markdown,
    "deepseek": lambda raw: deepseek(raw, PAGE, Reading.ANY).text,
    "deepseek-layout": lambda raw: deepseek(raw, PAGE, Reading.LAYOUT).text,
}
PROSE = (
    "the of a I see Smith, (2020) 3.5 10% 1. 2) iv. A. S. Figure Table References don't e.g. “so” كتاب — 1,2 B:".split()
)
MARKS = (
    "# ## * - + . ; : ** **bold** _x_ $x^2$ \\(a\\) \\[b\\] \\begin{table} <b> </b> <table> <|ref|>text<|/ref|> "
    "<|det|>[[1,2,3,4]]<|/det|> ![text](1,2,3,4) ![image](image_1.png) & &amp; | a|b ``` ` -- \\left \\right. \\coloneqq "
    "\\title{x} \\section{y} \\& ~ === x_1 a@b.c [1] [FOOTNOTE:"
).split()
GAPS = [" "] * 20 + ["\n"] * 3 + ["\n\n"] * 3
ODD_GAPS = ["  ", "\n\n\n", " \n", "\n ", "\t"]


def document(rng: random.Random) -> str:
    marks = rng.choice((0.0, 0.05, 0.3))
    gaps = GAPS + ODD_GAPS if marks else GAPS
    words = (rng.choice(MARKS if rng.random() < marks else PROSE) for _ in range(rng.randrange(1, 40)))
    return "".join(word + rng.choice(gaps) for word in words)


def told(raw: str, cleaned: str, rng: random.Random) -> tuple[str, str]:
    """What came before the page was done, and after."""
    live, out, at = LiveText(ASK, (0,), before=False), "", 0
    while at < len(raw):
        size = rng.randrange(1, 8)
        out += live.take(TextDelta(page=0, text=raw[at : at + size]))
        at += size
    page = PageResult(index=0, status=PageStatus.OK, text=cleaned, raw_text=raw)
    rest = live.take(PageDone(result=page))
    return out, rest + live.take(DocumentDone(result=OcrResult(model="any", pages=(page,), seconds=0.0)))


@pytest.mark.parametrize("name", CLEAN)
def test_the_pieces_make_the_cleaned_text(name: str) -> None:
    rng = random.Random(name)
    early = 0
    for _ in range(300):
        raw = document(rng)
        cleaned = CLEAN[name](raw)
        before, after = told(raw, cleaned, rng)
        assert before + after == cleaned.strip(), raw
        early += len(before)
    assert early > 3000


@pytest.mark.parametrize("name", CLEAN)
def test_prose_does_not_wait_for_the_end(name: str) -> None:
    raw = "A short note on reading\n\nThis page was drawn for the sample. It is\nplain text, 37.50 EUR for 250 copies."
    before, after = told(raw, CLEAN[name](raw), random.Random(1))
    assert (before, after) == (raw.removesuffix(" copies."), " copies.")


@pytest.mark.parametrize("size", [1, 5, 40])
def test_the_pieces_of_a_page_that_looped_make_its_text(size: int) -> None:
    """A loop's first round stays; the rest is taken back, whenever that is noticed, and other words follow."""
    rng = random.Random(size)
    for _ in range(200):
        before, after = (" ".join(rng.choice(PROSE) for _ in range(rng.randrange(1, 30))) for _ in range(2))
        turn = "".join(f" {rng.choice(PROSE)}" for _ in range(rng.randrange(1, 40)))
        raw = before + turn * rng.randrange(2, 9) + turn[: rng.randrange(len(turn))]
        kept = before + turn
        live = LiveText(ASK, (0,), before=False)
        out = "".join(live.take(TextDelta(page=0, text=raw[at : at + size])) for at in range(0, len(raw), size))
        live.take(TextRewind(page=0, length=len(kept)))
        whole = f"{kept} {after}"
        out += live.take(TextDelta(page=0, text=f" {after}"))
        out += live.take(PageDone(result=PageResult(index=0, status=PageStatus.OK, text=whole, raw_text=whole)))
        assert out == whole and not live.differing


def test_what_repeats_is_counted() -> None:
    assert [repeated(text) for text in ("", "a", "ab", "aa", "abab", "xabcabca", "abcXabc", "abcXabcd")] == [
        *(0, 0, 0, 1, 2, 4, 3, 0)
    ]
    assert repeated("word" + "-" * 2000 + "word") == 0
