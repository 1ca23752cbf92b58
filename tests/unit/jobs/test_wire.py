from __future__ import annotations

import base64
from dataclasses import replace

from ocr_mlx.domain import Block, PageError, PageResult, PageStatus
from ocr_mlx.jobs.records import JobState
from ocr_mlx.jobs.wire import job_result, webhook_body
from tests.unit.jobs.made import a_job, a_page


def test_the_keys_that_clients_know() -> None:
    result = job_result(a_job(pages=2), (a_page(0), a_page(1)))
    assert result.keys() == {"text", "formatted_text", "output_file_base64", "confidence", "metadata"}
    assert result["metadata"].keys() >= {"engine", "model_id", "pages", "total_pages"}
    assert result["metadata"]["pages"][1].keys() >= {"page_number", "confidence", "status", "metadata"}


def test_a_pdf_has_a_line_above_each_page() -> None:
    result = job_result(a_job(pages=2), (a_page(0, "one"), a_page(1, "two")))
    assert result["text"] == "=== Page 1 of 2 ===\none\n\n=== Page 2 of 2 ===\ntwo"
    assert result["formatted_text"] == "one\n\ntwo" and result["output_file_base64"] is None
    assert result["metadata"]["total_pages"] == 2


def test_a_picture_has_none() -> None:
    result = job_result(a_job(pages=1, kind="image"), (a_page(0, "Grüße"),))
    assert result["text"] == result["formatted_text"] == "Grüße"
    assert base64.b64decode(result["output_file_base64"]).decode() == "Grüße"


def test_pages_of_one_prompt_share_a_line() -> None:
    result = job_result(a_job(pages=3), (a_page(0, "both", following=(1,)), a_page(2, "last")))
    assert result["text"] == "=== Pages 1-2 of 3 ===\nboth\n\n=== Page 3 of 3 ===\nlast"


def test_a_selection_keeps_its_order_and_tells_the_real_numbers() -> None:
    job = replace(a_job(), pages=(4, 0))
    result = job_result(job, (a_page(0, "first of the book"), a_page(4, "asked for first")))
    assert result["text"].startswith("=== Page 1 of 2 ===\nasked for first")
    assert [page["page_number"] for page in result["metadata"]["pages"]] == [5, 1]


def test_confidence_is_real_or_absent() -> None:
    pages = (a_page(0, confidence=1.0, generated_tokens=1), a_page(1, confidence=0.5, generated_tokens=3), a_page(2))
    assert job_result(a_job(), pages)["confidence"] == 0.625
    assert job_result(a_job(), (a_page(2),))["confidence"] is None


def test_blocks_and_bad_pages_are_told() -> None:
    block = Block(label="title", text="A", box=(1.0, 2.0, 3.0, 4.0), normalized=(0.1, 0.2, 0.3, 0.4))
    bad = PageResult(index=1, status=PageStatus.FAILED, error=PageError(code="bad_pdf", message="Damaged."))
    first, second = job_result(a_job(pages=2), (a_page(0, blocks=(block,)), bad))["metadata"]["pages"]
    assert first["metadata"]["blocks"] == [{"label": "title", "text": "A", "box": [1.0, 2.0, 3.0, 4.0]}]
    assert (second["status"], second["error"]) == ("failed", "Damaged.")


def test_the_webhook_of_an_empty_reason() -> None:
    body = webhook_body(replace(a_job(), state=JobState.FAILED), ())
    assert body["status"] == "failed" and body["error"] == "The job failed."
