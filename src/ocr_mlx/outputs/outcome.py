"""Whether a document as a whole was read."""

from __future__ import annotations

from ocr_mlx.domain import OcrResult, PageError, PageResult, PageStatus
from ocr_mlx.errors import Cancelled, DecodeError


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
