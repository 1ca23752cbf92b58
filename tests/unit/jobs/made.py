"""Jobs and results as tests need them."""

from __future__ import annotations

from typing import Any

from ocr_mlx.domain import PageResult, PageStatus
from ocr_mlx.jobs.records import Job, JobRequest, new_job


def a_job(pages: int = 3, **more: Any) -> Job:
    values: dict[str, Any] = {
        "kind": "pdf",
        "filename": "letter.pdf",
        "engine": "builtin",
        "request": JobRequest(model="builtin", password="hunter2"),
        "pages": tuple(range(pages)),
    }
    return new_job(**(values | more))


def a_page(index: int = 0, text: str = "", **more: Any) -> PageResult:
    text = text or f"page {index}"
    values: dict[str, Any] = {"status": PageStatus.OK, "text": text, "raw_text": text}
    return PageResult(index=index, **(values | more))
