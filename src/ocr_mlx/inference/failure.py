"""What nobody expected, as an error that can be shown: the reason goes to the log, without a word of the document."""

from __future__ import annotations

import logging

from ocr_mlx.errors import DecodeError, OcrMlxError, OutOfMemory
from ocr_mlx.utils.logs import where

log = logging.getLogger(__name__)


def as_error(problem: BaseException, doing: str) -> OcrMlxError:
    """The error itself where it is one of ours; otherwise one that says what failed. `doing` completes "while ..."."""
    if isinstance(problem, OcrMlxError):
        return problem
    log.error("while %s: %s", doing, where(problem))
    if isinstance(problem, MemoryError) or "allocate" in str(problem):
        error: OcrMlxError = OutOfMemory(
            f"The device ran out of memory while {doing}.", hint="Lower OCR_MLX_MAX_ROWS or use a quantized model."
        )
    else:
        error = DecodeError(
            f"Something failed while {doing} ({type(problem).__name__}).",
            hint="Try again; if it happens again, report it with the log.",
        )
    error.__cause__ = problem
    return error
