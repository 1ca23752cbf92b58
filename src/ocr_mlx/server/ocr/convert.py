"""Between the wire and the engine's records."""

from __future__ import annotations

from collections import Counter
from urllib.parse import quote

from ocr_mlx.domain import UNSET, DecodeOverrides, OcrRequest, OcrResult, PageError, PageResult, PageStatus, Prompt
from ocr_mlx.errors import Cancelled, DecodeError, SourceError
from ocr_mlx.pages.source import parse_source
from ocr_mlx.server.ocr.schemas import OCRRequest

FORMS = ("file:", "http:", "https:", "data:")
_LISTED = 200
_HEAD = 256
"""Characters to look at for the address's form: a data URI may be a hundred million long."""


def to_request(body: OCRRequest) -> OcrRequest:
    """The engine's request. Decodes a data URI, so call it off the event loop. Raises SourceError."""
    if not body.filename or body.filename.isspace():
        raise SourceError("`filename` is empty.", hint="Give a file://, http(s):// or data: address.")
    if not body.filename[:_HEAD].lstrip().lower().startswith(FORMS):
        raise SourceError("`filename` is no address.", hint="Give a file://, http(s):// or data: address.")
    return OcrRequest(
        source=parse_source(body.filename),
        model=body.model.strip() if "model" in body.model_fields_set else "",
        prompt=Prompt(text=body.prompt, mode=body.mode),
        overrides=_overrides(body),
        page_range=body.pages,
        padding=body.padding or 0,
        dpi=body.dpi,
        password=body.password,
        keep_alive=body.keep_alive,
    )


def _overrides(body: OCRRequest) -> DecodeOverrides:
    """Only what the client said; the model decides the rest."""
    said = body.model_fields_set
    return DecodeOverrides(
        max_new_tokens=UNSET if body.max_tokens is None else body.max_tokens,
        temperature=body.temperature if "temperature" in said else UNSET,
        top_p=body.top_p if "top_p" in said else UNSET,
        top_k=UNSET if body.top_k is None else body.top_k,
        repetition_penalty=UNSET if body.repetition_penalty is None else body.repetition_penalty,
        no_repeat_ngram=UNSET if body.no_repeat_ngram is None else body.no_repeat_ngram,
        ngram_window=UNSET if body.ngram_window is None else body.ngram_window,
        stop=UNSET if body.stop is None else tuple(body.stop),
        seed=UNSET if body.seed is None else body.seed,
    )


def failure(result: OcrResult) -> PageError | None:
    """Why the document counts as failed, in the words of its first bad page; None when it does not.

    It does when a page was cancelled, and when there is no text although not every page is blank.
    """
    for page in result.pages:
        if page.status is PageStatus.CANCELLED:
            return PageError(code=Cancelled.code, message="The request was cancelled.")
    bad = [page for page in result.pages if page.status not in (PageStatus.OK, PageStatus.BLANK)]
    return _reason(bad[0]) if bad and not result.text else None


def _reason(page: PageResult) -> PageError:
    if page.error:
        return page.error
    what = "hit the token limit" if page.status is PageStatus.TRUNCATED else "only repeated itself"
    return PageError(code=DecodeError.code, message=f"The model {what} and left no text. Try another model or mode.")


def headers(result: OcrResult) -> dict[str, str]:
    """What became of each page: a list such as `ok,truncated`, or counts such as `ok=998;failed=2` for many pages."""
    statuses = [page.status.value for page in result.pages for _ in (page.index, *page.following)]
    listed = ",".join(statuses) if len(statuses) <= _LISTED else _counts(statuses)
    told = {
        "X-OCR-MLX-Pages": str(len(statuses)),
        "X-OCR-MLX-Status": listed,
        "X-OCR-MLX-Model": quote(result.model, safe="/:@ ~"),
    }
    reason = next((page.error.code for page in result.pages if page.error), "")
    return told | ({"X-OCR-MLX-Error": reason} if reason else {})


def _counts(statuses: list[str]) -> str:
    return ";".join(f"{status}={count}" for status, count in Counter(statuses).items())
