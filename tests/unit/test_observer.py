from __future__ import annotations

import logging

import pytest

from ocr_mlx.domain import OcrResult, PageResult, PageStatus
from ocr_mlx.observer import outcome_code, report, shown_model


def test_a_documents_line_counts_and_quotes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    pages = (
        PageResult(
            index=0, status=PageStatus.OK, text="SECRET", raw_text="SECRET", prompt_tokens=2, generated_tokens=5
        ),
        PageResult(index=1, status=PageStatus.BLANK),
        PageResult(index=2, status=PageStatus.OK, text="SECRET", generated_tokens=1, cached=True),
    )
    with caplog.at_level(logging.INFO, "ocr_mlx"):
        report(OcrResult(model="/SECRET/folder/tiny", pages=pages, seconds=1.2345))
    (record,) = caplog.records
    assert record.getMessage() == "document done: 3 pages (1 blank, 2 ok) by tiny in 1.23 s, 6 tokens"
    assert record.fields == {  # type: ignore[attr-defined]
        "event": "document",
        "model": "tiny",
        "pages": {"blank": 1, "ok": 2},
        "cached": 1,
        "prompt_tokens": 2,
        "generated_tokens": 6,
        "seconds": 1.234,
    }


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("facebook/nougat-small", "facebook/nougat-small"),
        ("builtin", "builtin"),
        ("/home/someone/models/mine/", "mine"),
        ("~/mine", "mine"),
        ("./mine", "mine"),
        ("models/of/mine", "mine"),
        ("openai+http://gpu.lan:8000/v1#org/model", "org/model"),
        ("openai+http://gpu.lan#mine", "mine"),
        ("two\nlines", "two\\nlines"),
        ("x" * 300, "x" * 100),
    ],
)
def test_a_models_name_is_shown_plainly(model: str, shown: str) -> None:
    assert shown_model(model) == shown


@pytest.mark.parametrize(
    ("error", "outcome"),
    [("", "ok"), ("queue_full", "queue_full"), ("bad_image", "bad_image"), ("whatever else", "error")],
)
def test_outcomes_are_a_closed_set(error: str, outcome: str) -> None:
    assert outcome_code(error) == outcome
