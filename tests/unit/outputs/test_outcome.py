"""Whether a document as a whole was read."""

from __future__ import annotations

import pytest

from ocr_mlx.domain import OcrResult, PageError, PageResult, PageStatus
from ocr_mlx.outputs.outcome import failure


def result(*pages: tuple[PageStatus, str]) -> OcrResult:
    made = [
        PageResult(
            index=index,
            status=status,
            text=text,
            error=PageError(code="bad_pdf", message="Damaged.") if status is PageStatus.FAILED else None,
        )
        for index, (status, text) in enumerate(pages)
    ]
    return OcrResult(model="m", pages=tuple(made), seconds=1.0)


@pytest.mark.parametrize(
    "pages",
    [
        [(PageStatus.OK, "a")],
        [(PageStatus.BLANK, "")],
        [(PageStatus.OK, "")],
        [(PageStatus.FAILED, ""), (PageStatus.OK, "a")],
        [(PageStatus.TRUNCATED, "a")],
    ],
)
def test_a_document_with_text_or_nothing_on_it_was_read(pages: list[tuple[PageStatus, str]]) -> None:
    assert failure(result(*pages)) is None


@pytest.mark.parametrize(
    ("pages", "code", "message"),
    [
        ([(PageStatus.FAILED, "")], "bad_pdf", "Damaged."),
        ([(PageStatus.BLANK, ""), (PageStatus.FAILED, "")], "bad_pdf", "Damaged."),
        ([(PageStatus.TRUNCATED, "")], "decode_error", "token limit"),
        ([(PageStatus.LOOP_STOPPED, "")], "decode_error", "repeated itself"),
        ([(PageStatus.OK, "a"), (PageStatus.CANCELLED, "")], "cancelled", "cancelled"),
    ],
)
def test_one_without_text_that_is_not_blank_failed(
    pages: list[tuple[PageStatus, str]], code: str, message: str
) -> None:
    found = failure(result(*pages))
    assert found is not None and found.code == code and message in found.message
