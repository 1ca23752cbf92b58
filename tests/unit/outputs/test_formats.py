from __future__ import annotations

import json

import pytest

from ocr_mlx.domain import Block, Finish, OcrResult, PageError, PageResult, PageStatus
from ocr_mlx.errors import SourceNotFound
from ocr_mlx.outputs.formats import FORMATS, PARTS, to_error_line, to_json, to_json_line, to_markdown, to_text

PAGES = (
    PageResult(
        index=0,
        status=PageStatus.OK,
        text="# One",
        raw_text="# One</s>",
        token_ids=(5, 6),
        blocks=(Block(label="title", text="One", box=(1, 2, 3, 4), normalized=(0.1, 0.2, 0.3, 0.4)),),
        confidence=0.75,
        prompt_tokens=3,
        generated_tokens=2,
        effective_size=(672, 896),
        seconds=0.123456,
        decode_steps=2,
        drafted=3,
        accepted=1,
        cached=True,
    ),
    PageResult(index=1, status=PageStatus.BLANK),
    PageResult(
        index=2,
        status=PageStatus.FAILED,
        finish=Finish.ERROR,
        error=PageError(code="bad_pdf", message="Damaged --> <b>."),
    ),
    PageResult(index=3, status=PageStatus.TRUNCATED, text="vier", generated_tokens=9, finish=Finish.LENGTH),
)
RESULT = OcrResult(model="m", pages=PAGES, seconds=1.5)


def test_text_is_the_pages_and_a_last_line_break() -> None:
    assert to_text(RESULT) == "# One\n\nvier\n"


def test_nothing_stays_nothing() -> None:
    empty = OcrResult(model="m", pages=(PAGES[1],), seconds=0.0)
    assert to_text(empty) == to_markdown(empty) == ""


def test_markdown_tells_of_pages_that_are_not_whole_and_stays_a_comment() -> None:
    assert to_markdown(RESULT) == (
        "# One\n\n<!-- page 3: failed: Damaged - -> <b>. -->\n\nvier\n\n<!-- page 4: truncated -->\n"
    )


@pytest.mark.parametrize("form", PARTS)
def test_what_the_pages_add_makes_the_whole(form: str) -> None:
    parts = [part for page in PAGES for part in PARTS[form](page)]
    assert "\n\n".join(parts) + "\n" == FORMATS[form](RESULT)


def test_json_holds_everything() -> None:
    found = json.loads(to_json(RESULT))
    assert found.keys() == {"model", "text", "pages", "usage", "seconds"}
    assert (found["model"], found["text"], found["seconds"]) == ("m", "# One\n\nvier", 1.5)
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 11, "total_tokens": 14}
    assert found["pages"][0] == {
        "index": 0,
        "status": "ok",
        "text": "# One",
        "raw_text": "# One</s>",
        "blocks": [{"label": "title", "text": "One", "box": [1, 2, 3, 4], "normalized": [0.1, 0.2, 0.3, 0.4]}],
        "confidence": 0.75,
        "tokens": {"prompt": 3, "generated": 2},
        "finish": "eos",
        "effective_size": [672, 896],
        "seconds": 0.1235,
        "decode_steps": 2,
        "drafts": {"proposed": 3, "accepted": 1},
        "cached": True,
        "error": None,
    }
    assert found["pages"][2]["error"] == {"code": "bad_pdf", "message": "Damaged --> <b>."}
    assert [page["status"] for page in found["pages"]] == ["ok", "blank", "failed", "truncated"]


def test_blocks_are_real_or_absent_and_token_ids_stay_in_python() -> None:
    first, second, *_ = json.loads(to_json(RESULT))["pages"]
    assert "blocks" in first and "blocks" not in second
    assert "token_ids" not in first


def test_a_json_line_is_one_line_of_the_same() -> None:
    line = to_json_line("a.png", RESULT)
    assert line.count("\n") == 1 and json.loads(line) == {"input": "a.png"} | json.loads(to_json(RESULT))
    failed = json.loads(to_error_line("b.png", SourceNotFound("There is no b.png.", hint="Check it.")))
    assert failed == {
        "input": "b.png",
        "error": {"code": "source_not_found", "message": "There is no b.png. Check it."},
    }


def test_letters_stay_letters() -> None:
    assert "ü" in to_json(OcrResult(model="m", pages=(PageResult(index=0, status=PageStatus.OK, text="ü"),), seconds=0))


def test_the_formats_are_these() -> None:
    assert list(FORMATS) == ["txt", "md", "json"]
