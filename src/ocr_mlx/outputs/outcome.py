"""Whether a document as a whole was read."""

from __future__ import annotations

from ocr_mlx.domain import OcrResult, PageError, PageResult, PageStatus
from ocr_mlx.errors import Cancelled, DecodeError, TimedOut


def failure(result: OcrResult) -> PageError | None:
    """Why the document counts as failed, in the words of its first bad page; None when it does not.

    It does when its caller gave it up, and when there is no text although not every page is blank. Where its time was over,
    what was read until then counts: it fails only when that is nothing, and then for that reason.
    """
    late = [page for page in result.pages if page.error is not None and page.error.code == TimedOut.code]
    for page in result.pages:
        if page.status is PageStatus.CANCELLED and page not in late:
            return PageError(code=Cancelled.code, message="The request was cancelled.")
    bad = late or [page for page in result.pages if page.status not in (PageStatus.OK, PageStatus.BLANK)]
    return _reason(bad[0]) if bad and not result.text else None


def _reason(page: PageResult) -> PageError:
    if page.error:
        return page.error
    what = "hit the token limit" if page.status is PageStatus.TRUNCATED else "only repeated itself"
    return PageError(code=DecodeError.code, message=f"The model {what} and left no text. Try another model or mode.")
