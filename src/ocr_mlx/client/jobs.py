"""Jobs on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import httpx

from ocr_mlx.client.documents import Bytes, Document, content_of
from ocr_mlx.client.errors import ServerFailed
from ocr_mlx.client.records import Event, Job, Page


def upload(source: Document, options: Mapping[str, Any]) -> tuple[Bytes, dict[str, str]]:
    """The document and the form's other fields. Opens files."""
    fields = {"engine" if name == "model" else name: str(value) for name, value in options.items()}
    return content_of(source), fields


def submitted(response: httpx.Response, filename: str) -> Job:
    """The job as it is right after it was taken."""
    found = response.json()
    return Job(id=found["job_id"], state="pending", filename=filename, raw=found)


def listed(response: httpx.Response) -> list[Job]:
    """A list of jobs, without what they have read."""
    return [job(item) for item in response.json()["jobs"]]


def job(found: Mapping[str, Any]) -> Job:
    """A job from its wire form. One that was cancelled says so, though the wire has it as failed."""
    result, progress = found.get("result") or {}, found.get("progress") or {}
    return Job(
        id=found["id"],
        state="cancelled" if found.get("cancelled") else found["status"],
        filename=found.get("filename") or "",
        model=found.get("engine") or "",
        done=progress.get("done", 0),
        total=progress.get("total", 0),
        statuses=tuple(item["status"] for item in found.get("pages") or ()),
        text=result.get("formatted_text") or result.get("text") or "",
        confidence=result.get("confidence"),
        error=found.get("error") or "",
        raw=dict(found),
    )


def page(data: Mapping[str, Any]) -> Page:
    """A page from the event that tells of it."""
    return Page(
        number=data["page_number"],
        status=data["status"],
        text=data.get("text") or "",
        confidence=data.get("confidence"),
        error=data.get("error") or "",
    )


def pages(ended: Job, events: Iterable[Event]) -> list[Page]:
    """All pages of a job that has ended, in order. Raises ServerFailed when it ended without any."""
    found = [event.page for event in events if event.page is not None]
    if not found and ended.state != "completed":
        raise ServerFailed(ended.error or "The job ended without any page.")
    spent = _spent(ended)
    ordered = sorted(found, key=lambda page: page.number)
    return [_with_tokens(page, spent.get(page.number, {})) for page in ordered]


def _with_tokens(page: Page, spent: Mapping[str, Any]) -> Page:
    return replace(page, tokens=spent.get("completion_tokens"), prompt_tokens=spent.get("prompt_tokens"))


def _spent(ended: Job) -> dict[int, Mapping[str, Any]]:
    """What a completed job says of each page's decoding, by its number."""
    metadata = (ended.raw.get("result") or {}).get("metadata") or {}
    return {page["page_number"]: page.get("metadata") or {} for page in metadata.get("pages") or ()}
