"""Everything that can go wrong, as one tree. An error never carries a status code: `server/errors.py` maps classes once.

OcrMlxError
  SourceError    SourceNotFound SourceForbidden SourceTooLarge FetchFailed UnsupportedMedia
  PageError      BadImage BadPdf PdfLocked PageOutOfRange
  ModelError     UnknownModel UnsupportedArchitecture CheckpointIncomplete WeightMismatch DownloadFailed
                 ModelNotHere OutputExists
  DecodeError    PromptTooLong Cancelled TimedOut InvalidOption
  EngineError    QueueFull JobsUnavailable ShuttingDown JobNotFound OutOfMemory RemoteFailed
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class OcrMlxError(Exception):
    """Base of all errors. `message` says what is wrong, `hint` what to do; both are safe to show to a user."""

    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = showable(message)
        self.hint = showable(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def showable(text: str, most: int = 2000) -> str:
    """The text as any terminal, log and wire takes it: names out of files may be long, and hold any character."""
    short = text if len(text) <= most else f"{text[:most]}…"
    return _UNSHOWABLE.sub("?", short)


class SourceError(OcrMlxError):
    """The bytes of a document could not be had."""

    code = "source_error"


class SourceNotFound(SourceError):
    """No such file."""

    code = "source_not_found"


class SourceForbidden(SourceError):
    """The file or address may not be read from here."""

    code = "source_forbidden"


class SourceTooLarge(SourceError):
    """More bytes, pixels or pages than the limits allow."""

    code = "source_too_large"


class FetchFailed(SourceError):
    """A URL did not answer with a document."""

    code = "fetch_failed"


class UnsupportedMedia(SourceError):
    """The bytes are neither an image nor a PDF that can be read here."""

    code = "unsupported_media"


class PageError(OcrMlxError):
    """A document was found but a page of it cannot be read."""

    code = "page_error"


class BadImage(PageError):
    """The image is damaged."""

    code = "bad_image"


class BadPdf(PageError):
    """The PDF, or one page of it, is damaged."""

    code = "bad_pdf"


class PdfLocked(PageError):
    """The PDF wants a password, or another one."""

    code = "pdf_locked"


class PageOutOfRange(PageError):
    """The page range names no page of this document, or is not a range."""

    code = "page_out_of_range"


class ModelError(OcrMlxError):
    """A model cannot be had, read or converted."""

    code = "model_error"


class UnknownModel(ModelError):
    """The name is no alias, no folder and no hub id."""

    code = "unknown_model"


class UnsupportedArchitecture(ModelError):
    """The folder holds a model of a kind that no family here reads."""

    code = "unsupported_architecture"


class CheckpointIncomplete(ModelError):
    """A file that the model needs is missing or damaged."""

    code = "checkpoint_incomplete"


class WeightMismatch(ModelError):
    """Tensors and graph disagree.

    `missing` and `extra` are tensor names; `shape` maps a name to (expected, found).
    """

    code = "weight_mismatch"

    def __init__(
        self,
        *,
        missing: Sequence[str] = (),
        extra: Sequence[str] = (),
        shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
    ) -> None:
        self.missing = tuple(missing)
        self.extra = tuple(extra)
        self.shape = dict(shape or {})
        parts = [_some("missing", self.missing), _some("unknown", self.extra)]
        parts.append(_some("misshapen", [f"{n} (expected {e}, found {f})" for n, (e, f) in self.shape.items()]))
        super().__init__(
            "The weights do not fit this model: " + "; ".join(p for p in parts if p) + ".",
            hint="The checkpoint is damaged or belongs to another model; download or convert it again.",
        )


def _some(label: str, names: Sequence[str], most: int = 5) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{label} {', '.join(names[:most])}{more}"


class DownloadFailed(ModelError):
    """The hub could not be reached or refused."""

    code = "download_failed"


class ModelNotHere(DownloadFailed):
    """The model is not on this machine, and downloads are switched off."""

    code = "model_not_here"


class OutputExists(ModelError):
    """A conversion would overwrite something."""

    code = "output_exists"


class DecodeError(OcrMlxError):
    """Decoding could not start or go on."""

    code = "decode_error"


class PromptTooLong(DecodeError):
    """Prompt and picture fill the model's positions."""

    code = "prompt_too_long"


class Cancelled(DecodeError):
    """The caller gave up."""

    code = "cancelled"


class TimedOut(DecodeError):
    """The request's deadline passed while decoding."""

    code = "timed_out"


class InvalidOption(DecodeError):
    """An option's value, or a mode, that this model does not know."""

    code = "invalid_option"


class EngineError(OcrMlxError):
    """The engine cannot take or keep the work."""

    code = "engine_error"


class QueueFull(EngineError):
    """Too much work is waiting; try again later: in about `seconds`, where that is known."""

    code = "queue_full"

    def __init__(self, message: str, *, hint: str = "", seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.seconds = seconds


class JobsUnavailable(EngineError):
    """Where jobs are kept cannot be used now: it is not reached, refuses, or is full; later it may be."""

    code = "jobs_unavailable"


class ShuttingDown(EngineError):
    """The server is ending and takes no new work."""

    code = "shutting_down"


class JobNotFound(EngineError):
    """No such job, or it has expired."""

    code = "job_not_found"


class OutOfMemory(EngineError):
    """The model or the page does not fit the memory."""

    code = "out_of_memory"


class RemoteFailed(EngineError):
    """An engine on another machine could not be reached, refused, or answered nothing that can be used."""

    code = "remote_failed"
